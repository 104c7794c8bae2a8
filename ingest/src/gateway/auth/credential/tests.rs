//! The form of keys, pinned.

use proptest::prelude::*;

use super::*;

#[test]
fn the_form_is_pinned() {
    let minted = mint([0; 32]);
    assert_eq!(minted.secret.expose(), format!("{}_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA", minted.id));
    assert_eq!(minted.id, "cst_187ce4f1");
    assert_eq!(minted.sha256, Sha256::of(b"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"));
    assert_eq!(minted.secret.expose().len(), 56);
}

#[test]
fn what_is_no_key_is_told_from_a_mistyped_one() {
    let good = mint([1; 32]).secret.expose().to_owned();
    let check = |text: &str, expected: &str| {
        let denied = Presented::read(text).unwrap_err();
        assert_eq!(denied.code, DenialCode::CredentialMalformed, "{text}");
        assert!(denied.detail.contains(expected), "{text}: {}", denied.detail);
    };
    let no_key = "is not an API key";
    for text in ["", "cst_", "sk-123", "cst_0123456", "cst_01234567", "cst_01234567_", &good[..55], "éééééééééééé_"]
    {
        check(text, no_key);
    }
    check(&format!("{good}A"), no_key);
    check(&good.replace("cst_", "CST_"), no_key);
    check(&good.replacen(&good[..12], "cst_ABCDEF01", 1), no_key);
    check(&format!("{}!", &good[..55]), no_key);
    let other = mint([2; 32]).secret.expose().to_owned();
    check(&format!("{}{}", &good[..12], &other[12..]), "wrong character");
}

#[test]
fn only_the_stored_digest_of_the_same_secret_matches() {
    let minted = mint([3; 32]);
    let presented = Presented::read(minted.secret.expose()).unwrap();
    assert!(presented.matches(&minted.sha256));
    for bit in 0..256 {
        let mut other = minted.sha256;
        other.0[bit / 8] ^= 1 << (bit % 8);
        assert!(!presented.matches(&other), "bit {bit}");
    }
    assert!(!presented.matches(&Sha256::ZERO));
}

#[test]
fn digests_are_compared_in_constant_time_and_in_one_place() {
    let here = include_str!("../credential.rs");
    assert_eq!(here.matches("self.digest").count(), 1);
    assert!(here.contains("self.digest.0.ct_eq(&stored.0).into()"));
    let table = include_str!("../table.rs");
    assert!(!table.contains("sha256 ==") && !table.contains("== key.sha256"));
}

proptest! {
    /// One mistyped character is reported as such; what is minted is read.
    #[test]
    fn one_wrong_character_is_seen(random: [u8; 32], at in 0_usize..56, to in "[0-9A-Za-z_-]") {
        let minted = mint(random);
        let text = minted.secret.expose();
        let presented = Presented::read(text).unwrap();
        prop_assert_eq!(presented.id(), &minted.id);
        let typed = format!("{}{to}{}", &text[..at], &text[at + 1..]);
        if typed != text {
            prop_assert_eq!(Presented::read(&typed).unwrap_err().code, DenialCode::CredentialMalformed);
        }
    }

    /// No text makes it fail.
    #[test]
    fn any_text_is_answered(text in "\\PC{0,80}|cst_[0-9a-f]{8}_[A-Za-z0-9_-]{43}") {
        let _ = Presented::read(&text);
    }
}
