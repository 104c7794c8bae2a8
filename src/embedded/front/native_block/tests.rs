//! Round trips, every kind of damage, and arbitrary bytes.

use proptest::prelude::*;

use super::*;

fn decode(bytes: &[u8]) -> Result<Vec<u8>, Failure> {
    let mut out = Vec::new();
    Blocks::new(bytes).read_to_end(&mut out).map(|_| out).map_err(Failure::from_body)
}

fn block(method: u8, raw: &[u8], payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    encode_block(method, raw, payload, &mut out);
    out
}

/// Replaces the header's sizes and makes the checksum fit again.
fn with_sizes(mut block: Vec<u8>, block_bytes: u32, raw_bytes: u32) -> Vec<u8> {
    block[17..21].copy_from_slice(&block_bytes.to_le_bytes());
    block[21..25].copy_from_slice(&raw_bytes.to_le_bytes());
    let hash = checksum(&block[16..]);
    block[..16].copy_from_slice(&hash);
    block
}

#[test]
fn the_three_methods_are_read_and_blocks_join() {
    let text = b"chain of custody chain of custody";
    let lz4 = block(LZ4, text, &lz4_flex::block::compress(text));
    let zstd = block(ZSTD, text, &zstd::bulk::compress(text, 1).expect("compress"));
    let none = block(NONE, text, text);
    assert_eq!(decode(&[lz4, zstd, none].concat()), Ok(text.repeat(3)));
    assert_eq!(decode(&[]), Ok(Vec::new()));
}

#[test]
fn a_block_that_a_clickhouse_server_sent_is_read() {
    // Answer of ClickHouse 18.16.1 to `?compress=1&network_compression_method=ZSTD`.
    let hex = "426447595f599c111169b50adfd3b828828d0000008f000000f065436f64653a2038392c20652e646973706c6179546578742829\
               203d2044423a3a457863657074696f6e3a20556e6b6e6f776e20636f6d7072657373696f6e206d6574686f643a20275a535444\
               272c206d757374206265206f6e65206f6620276c7a34272c20276c7a346863272c20277a737464276c003b7768616500507469\
               6f6e0a";
    let sent: Vec<u8> =
        (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).expect("hex")).collect();
    let text = "Code: 89, e.displayText() = DB::Exception: Unknown compression method: 'ZSTD', must be one of 'lz4', \
                'lz4hc', 'zstd', e.what() = DB::Exception\n";
    assert_eq!(decode(&sent), Ok(text.as_bytes().to_vec()));
}

#[test]
fn damage_is_an_exception_with_its_code() {
    let good = block(LZ4, b"aaaaaaaaaaaaaaaa", &lz4_flex::block::compress(b"aaaaaaaaaaaaaaaa"));
    let check = |bytes: &[u8], code| assert_eq!(decode(bytes).map_err(|f| f.code), Err(code), "{bytes:?}");
    for cut in 1..good.len() {
        check(&good[..cut], 33);
    }
    for flipped in 0..16 {
        let mut bad = good.clone();
        bad[flipped] ^= 1;
        check(&bad, 40);
    }
    check(&block(0x7f, b"x", b"x"), 89);
    check(&block(LZ4, b"xxxx", b"\xff\xff\xff"), 271);
    check(&block(ZSTD, b"xxxx", b"not zstd"), 271);
    check(&block(NONE, b"xxxx", b"xx"), 271);
    check(&with_sizes(good.clone(), 8, 16), 39);
    check(&with_sizes(good.clone(), u32::MAX, 16), 39);
    check(&with_sizes(good.clone(), 1 << 20, 16), 33);
    check(&with_sizes(good.clone(), (good.len() - 16) as u32, u32::MAX), 39);
    check(&with_sizes(good.clone(), (good.len() - 16) as u32, 17), 271);
    check(&with_sizes(good.clone(), (good.len() - 16) as u32, 15), 271);
}

proptest! {
    #[test]
    fn what_is_encoded_is_decoded(raw in proptest::collection::vec(any::<u8>(), 0..5000)) {
        let mut out = Vec::new();
        encode(&raw, &mut out);
        prop_assert_eq!(decode(&out), Ok(raw));
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 1..200)) {
        prop_assert!(decode(&bytes).is_err());
    }

    #[test]
    fn an_arbitrary_payload_under_a_fitting_checksum_never_panics(
        payload in proptest::collection::vec(any::<u8>(), 0..200), method in prop_oneof![Just(LZ4), Just(ZSTD)], raw in 0u32..1000,
    ) {
        let made = block(method, b"", &payload);
        let block_bytes = (made.len() - 16) as u32;
        let decoded = decode(&with_sizes(made, block_bytes, raw));
        prop_assert!(decoded.is_err() || decoded.is_ok_and(|out| out.len() == raw as usize));
    }
}
