//! Every dependency's licence is one that `deny.toml` allows.
//!
//! `cargo deny check licenses bans sources` says the same and more where it is installed; this needs
//! nothing but Cargo, so that no build goes without the check.

use std::collections::BTreeSet;
use std::process::Command;

use serde_json::Value;

/// Whether an SPDX expression can be met with the allowed licences. Parentheses occur in dependencies
/// only around alternatives that are joined by `AND` with others.
fn is_met(expression: &str, allowed: &BTreeSet<String>) -> bool {
    let expression = expression.replace('/', " OR ");
    if let Some((before, rest)) = expression.split_once('(') {
        let (group, after) = rest.split_once(')').unwrap_or((rest, ""));
        let joined = |text: &str| text.trim().trim_start_matches("AND").trim_end_matches("AND").trim().to_owned();
        return [joined(before), group.to_owned(), joined(after)]
            .iter()
            .all(|part| part.is_empty() || is_met(part, allowed));
    }
    let mut alternatives = expression.split(" OR ");
    alternatives.any(|all| all.split(" AND ").all(|licence| allowed.contains(licence.trim())))
}

fn allowed() -> BTreeSet<String> {
    let text = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/deny.toml")).expect("deny.toml");
    let list = text.split("allow = [").nth(1).and_then(|rest| rest.split(']').next()).expect("allow list");
    list.lines()
        .filter_map(|line| line.trim().trim_end_matches(',').strip_prefix('"')?.strip_suffix('"').map(str::to_owned))
        .collect()
}

/// The platform that is built for: what others would need need not be downloaded.
fn host() -> String {
    let version = Command::new("rustc").arg("-vV").output().expect("rustc");
    let text = String::from_utf8(version.stdout).expect("utf-8");
    text.lines().find_map(|line| line.strip_prefix("host: ")).expect("host").to_owned()
}

#[test]
fn expressions_are_read_as_spdx_means_them() {
    let allowed: BTreeSet<String> = ["MIT", "Apache-2.0", "Unicode-3.0"].map(str::to_owned).into();
    let check = |expression, expected| assert_eq!(is_met(expression, &allowed), expected, "{expression}");
    check("MIT", true);
    check("GPL-3.0-only OR MIT", true);
    check("MIT/Apache-2.0", true);
    check("(MIT OR GPL-3.0-only) AND Unicode-3.0", true);
    check("MIT AND GPL-3.0-only", false);
    check("AGPL-3.0-only", false);
}

#[test]
fn every_dependency_has_an_allowed_licence() {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--offline", "--locked", "--filter-platform", &host()])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("cargo metadata");
    let metadata: Value = serde_json::from_slice(&output.stdout).expect("metadata");
    let (packages, allowed) = (metadata["packages"].as_array().expect("packages"), allowed());
    assert!(packages.len() > 200, "{} packages", packages.len());
    let refused: Vec<String> = packages
        .iter()
        .map(|p| (p["name"].as_str().unwrap_or_default(), p["license"].as_str().unwrap_or("none stated")))
        .filter(|(_, licence)| !is_met(licence, &allowed))
        .map(|(name, licence)| format!("{name}: {licence}"))
        .collect();
    assert!(refused.is_empty(), "not allowed by deny.toml:\n{}", refused.join("\n"));
}
