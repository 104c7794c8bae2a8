//! Limits, and how much of a body a statement takes.

use super::*;

async fn read(body: Body, bytes_max: u64) -> Result<Vec<u8>, u32> {
    let mut reader = BodyReader::spawn(body, bytes_max);
    let reading = tokio::task::spawn_blocking(move || {
        let mut out = Vec::new();
        reader.read_to_end(&mut out).map(|_| out).map_err(|e| Failure::from_body(e).code)
    });
    reading.await.expect("no panic")
}

fn pieces(pieces: Vec<Result<&'static str, io::Error>>) -> Body {
    Body::from_stream(futures::stream::iter(pieces))
}

#[tokio::test]
async fn a_body_is_read_whole_up_to_its_limit() {
    assert_eq!(read(pieces(vec![Ok("abc"), Ok(""), Ok("def")]), 6).await, Ok(b"abcdef".to_vec()));
    assert_eq!(read(pieces(vec![Ok("abc"), Ok("def")]), 5).await, Err(229));
    assert_eq!(read(Body::empty(), 0).await, Ok(Vec::new()));
}

#[tokio::test]
async fn a_client_that_leaves_is_an_error_and_not_an_end() {
    assert_eq!(read(pieces(vec![Ok("abc"), Err(io::Error::other("reset"))]), 100).await, Err(210));
}

fn limits(statement_bytes_max: u64) -> Limits {
    Limits { statement_bytes_max, ..Limits::default() }
}

#[test]
fn query_and_body_join_with_a_line_end() {
    let check = |query: &str, body: &str, expected: &str| {
        let received = read_statement(query.as_bytes(), &mut body.as_bytes(), &limits(100)).expect("read");
        assert_eq!(received.text, expected.as_bytes(), "{query:?} {body:?}");
    };
    check("SELECT 1", "", "SELECT 1\n");
    check("SELECT 1 \n", "FORMAT CSV", "SELECT 1\nFORMAT CSV");
    check("", "SELECT 1", "SELECT 1");
    check("", "", "");
}

#[test]
fn only_the_beginning_of_an_inserts_data_is_held() {
    let data = vec![b'7'; 3 * HEAD_BYTES as usize];
    for (query, head) in [("INSERT INTO t FORMAT RowBinary", ""), ("", "INSERT INTO t FORMAT RowBinary\n")] {
        let body = [head.as_bytes(), &data].concat();
        let mut rest = &body[..];
        let received = read_statement(query.as_bytes(), &mut rest, &limits(10)).expect("read");
        let Statement::InsertData { data_start, .. } = received.statement else { panic!("{:?}", received.statement) };
        assert!(received.text.len() <= HEAD_BYTES as usize + 100);
        assert!([&received.text[data_start..], rest].concat() == data, "{query:?}");
    }
}

#[test]
fn a_statement_above_its_limit_is_refused() {
    let body = format!("SELECT '{}'", "x".repeat(2 * HEAD_BYTES as usize));
    let read = |bytes_max| read_statement(b"", &mut body.as_bytes(), &limits(bytes_max));
    assert_eq!(read(body.len() as u64).map(|received| received.text.len()).map_err(|f| f.code), Ok(body.len()));
    assert_eq!(
        read(1000).map(|received| received.text.len()).map_err(|f| (f.code, f.status().as_u16())),
        Err((229, 413))
    );
}
