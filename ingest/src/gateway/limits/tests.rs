//! Bodies of every size, coding and pace, against their bounds.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use flate2::Compression;
use flate2::write::GzEncoder;
use futures::stream;

use super::*;

const LIMITS: BodyLimits = BodyLimits { bytes_max: 4 << 20, ratio_max: 100, read_timeout: Duration::from_secs(10) };

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn headers(coding: &str) -> HeaderMap {
    HeaderMap::from_iter([(header::CONTENT_ENCODING, coding.parse().unwrap())])
}

fn chunked(bytes: &[u8], chunk_bytes: usize) -> Body {
    let chunks: Vec<io::Result<Bytes>> =
        bytes.chunks(chunk_bytes).map(|chunk| Ok(Bytes::copy_from_slice(chunk))).collect();
    Body::from_stream(stream::iter(chunks))
}

async fn read(coding: &str, body: Body) -> Result<Bytes, (u16, &'static str)> {
    let budget = Budget::new(64 << 20, Gauge::default());
    let outcome = read_body(&headers(coding), body, &LIMITS, &mut budget.share()).await;
    outcome.map_err(|problem| (problem.status, problem.code))
}

/// Bytes that gzip makes about 3 % smaller.
fn noise(len: usize) -> Vec<u8> {
    let mut state = 1_u64;
    let next = |state: &mut u64| {
        *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (*state >> 33) as u8
    };
    (0..len).map(|_| next(&mut state)).collect()
}

#[tokio::test]
async fn a_body_is_read_whole_in_whatever_chunks_it_comes() {
    let bytes = noise(100_000);
    for chunk_bytes in [1_000, 65_536, 100_000] {
        assert_eq!(read("identity", chunked(&bytes, chunk_bytes)).await.unwrap(), bytes);
        assert_eq!(read("gzip", chunked(&gzip(&bytes), chunk_bytes)).await.unwrap(), bytes);
    }
    let members = [gzip(&bytes[..500]), gzip(&bytes[500..])].concat();
    assert_eq!(read("GZIP", chunked(&members, 333)).await.unwrap(), bytes);
    assert_eq!(read("identity", Body::empty()).await.unwrap(), Bytes::new());
}

#[tokio::test]
async fn a_body_that_is_one_byte_too_large_is_refused() {
    let bytes = noise(LIMITS.bytes_max + 1);
    let refused = Err((413, "body_too_large"));
    assert_eq!(read("identity", chunked(&bytes, 65_536)).await, refused);
    assert_eq!(read("gzip", chunked(&gzip(&bytes), 65_536)).await, refused);
    assert_eq!(read("gzip", chunked(&gzip(&bytes[1..]), 65_536)).await.unwrap(), &bytes[1..]);
}

#[tokio::test]
async fn a_bomb_is_given_up_at_its_bound() {
    let bomb = gzip(&vec![0; 64 << 20]);
    assert!(bomb.len() < LIMITS.bytes_max, "the bomb is {} bytes", bomb.len());
    let mut sink = Sink::new(Coding::Gzip, &LIMITS);
    let problem = sink.take(bomb.into()).unwrap_err();
    assert_eq!((problem.status, problem.code), (413, "body_too_large"));
    assert!(sink.len() <= LIMITS.bytes_max, "{} bytes were kept", sink.len());
    let small = gzip(&vec![0; 3 << 20]);
    assert!(small.len() * LIMITS.ratio_max < 3 << 20);
    assert_eq!(read("gzip", chunked(&small, 100)).await, Err((413, "body_too_large")));
    assert_eq!(read("gzip", chunked(&gzip(&[0; 1 << 20]), 100)).await.unwrap(), vec![0; 1 << 20]);
}

#[tokio::test]
async fn what_is_not_its_coding_is_refused() {
    let whole = gzip(b"{}");
    let mut wrong_sum = whole.clone();
    let sum_at = wrong_sum.len() - 5;
    wrong_sum[sum_at] ^= 1;
    for bytes in [b"{}".to_vec(), whole[..whole.len() - 1].to_vec(), whole[..5].to_vec(), wrong_sum, Vec::new()] {
        assert_eq!(read("gzip", chunked(&bytes, 7)).await, Err((400, "malformed_encoding")), "{bytes:?}");
    }
    for coding in ["br", "gzip, gzip", "zstd"] {
        assert_eq!(read(coding, Body::empty()).await, Err((415, "unsupported_encoding")), "{coding}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_body_that_drips_is_given_up_at_its_time() {
    let drip = stream::unfold(tokio::time::interval(Duration::from_secs(1)), |mut interval| async {
        interval.tick().await;
        Some((io::Result::Ok(Bytes::from_static(b"x")), interval))
    });
    let begun = Instant::now();
    assert_eq!(read("identity", Body::from_stream(drip)).await, Err((408, "request_timeout")));
    assert_eq!(begun.elapsed(), LIMITS.read_timeout);
}

#[tokio::test]
async fn a_body_that_breaks_off_is_refused() {
    let broken = stream::iter([Ok(Bytes::from_static(b"{")), Err(io::Error::other("reset"))]);
    assert_eq!(read("identity", Body::from_stream(broken)).await, Err((400, "malformed_request")));
}

#[tokio::test]
async fn the_budget_is_shared_and_given_back() {
    let gauge = Gauge::default();
    let budget = Budget::new(100 << 10, gauge.clone());
    let mut one = budget.share();
    let body = || chunked(&[b'x'; 60 << 10], 10_000);
    read_body(&HeaderMap::new(), body(), &LIMITS, &mut one).await.unwrap();
    assert_eq!(gauge.get(), 60 << 10);
    let mut two = budget.share();
    let refused = read_body(&HeaderMap::new(), body(), &LIMITS, &mut two).await.unwrap_err();
    assert_eq!((refused.status, refused.code), (429, "overloaded"));
    drop((one, two));
    assert_eq!(gauge.get(), 0);
    read_body(&HeaderMap::new(), body(), &LIMITS, &mut budget.share()).await.unwrap();
}

#[test]
fn a_request_of_http_1_says_how_long_it_is() {
    let with = |name: &'static str| HeaderMap::from_iter([(name.parse().unwrap(), "3".parse().unwrap())]);
    assert_eq!(check_length(Version::HTTP_11, &HeaderMap::new()).unwrap_err().status, 411);
    check_length(Version::HTTP_11, &with("content-length")).unwrap();
    check_length(Version::HTTP_11, &with("transfer-encoding")).unwrap();
    check_length(Version::HTTP_2, &HeaderMap::new()).unwrap();
}
