//! What names mean, what is refused, and a law over arbitrary query strings.

use proptest::prelude::*;

use super::*;

fn parse(method: &Method, query: &str, headers: &[(&'static str, &str)]) -> Result<Request, Failure> {
    let uri = format!("/?{query}").parse().expect("valid URI");
    let mut map = HeaderMap::new();
    for (name, value) in headers {
        map.insert(*name, value.parse().expect("valid header"));
    }
    Request::parse(method, &uri, &map)
}

fn post(query: &str) -> Request {
    parse(&Method::POST, query, &[]).expect("accepted")
}

#[test]
fn names_are_protocol_parameters_or_settings() {
    let request = post(
        "query=SELECT+%7Ba%3AString%7D&database=d&default_format=CSV&param_a=x%27y&query_id=q1&decompress=1&compress=1\
         &wait_end_of_query=1&insert_deduplication_token=t%3A0-5&async_insert=0&buffer_size=7",
    );
    let expected = Request {
        query: b"SELECT {a:String}".to_vec(),
        query_id: Some("q1".into()),
        database: Some("d".into()),
        default_format: Some("CSV".into()),
        params: vec![("a".into(), "x'y".into())],
        settings: BTreeMap::from([
            ("async_insert".into(), "0".into()),
            ("insert_deduplication_token".into(), "t:0-5".into()),
        ]),
        decompress: true,
        compress: true,
        wait_end_of_query: true,
        ..Request::default()
    };
    assert_eq!(request, expected);
}

#[test]
fn the_statement_keeps_bytes_that_are_not_text() {
    assert_eq!(post("query=SELECT+'%FF%00'").query, b"SELECT '\xff\0'");
    assert_eq!(parse(&Method::POST, "database=%FF", &[]).map_err(|f| f.code), Err(36));
}

#[test]
fn only_post_may_write() {
    for (method, readonly) in [(Method::POST, false), (Method::GET, true), (Method::HEAD, true)] {
        assert_eq!(parse(&method, "", &[]).map(|r| r.readonly), Ok(readonly), "{method}");
    }
    assert_eq!(parse(&Method::DELETE, "", &[]).map_err(|f| f.code), Err(48));
}

#[test]
fn encodings_come_from_the_headers_unless_switched_off() {
    let check = |query: &str, header: (&'static str, &str), body, answer| {
        let request = parse(&Method::POST, query, &[header]).expect("accepted");
        assert_eq!((request.content_encoding, request.accept_encoding), (body, answer), "{query} {header:?}");
    };
    check("", ("content-encoding", "gzip"), Some(Encoding::Gzip), None);
    check("", ("content-encoding", "identity"), None, None);
    check("", ("accept-encoding", "br, zstd;q=0.5"), None, Some(Encoding::Zstd));
    check("enable_http_compression=1", ("accept-encoding", "lz4"), None, Some(Encoding::Lz4));
    check("enable_http_compression=0", ("accept-encoding", "lz4"), None, None);
    let refused = parse(&Method::POST, "", &[("content-encoding", "br")]);
    assert_eq!(refused.map_err(|f| f.code), Err(48));
}

#[test]
fn there_is_one_user_without_password_and_no_web_page() {
    let check = |query: &str, headers: &[(&'static str, &str)], code: Option<u32>| {
        let refused = parse(&Method::POST, query, headers).err().map(|f| f.code);
        assert_eq!(refused, code, "{query} {headers:?}");
    };
    check("user=default&password=", &[], None);
    check("", &[("x-clickhouse-user", "default"), ("x-clickhouse-key", "")], None);
    check("", &[("authorization", "Basic ZGVmYXVsdDo=")], None);
    check("user=analyst", &[], Some(516));
    check("password=secret", &[], Some(516));
    check("", &[("x-clickhouse-user", "analyst")], Some(516));
    check("", &[("authorization", "Basic YTpi")], Some(516));
    check("", &[("origin", "http://example.com")], Some(497));
}

#[test]
fn a_setting_cannot_smuggle_sql() {
    for name in ["a%3DB", "1a", "a%20b", "a%27", "%00", "a;b", "=x"] {
        assert_eq!(parse(&Method::POST, &format!("{name}=1"), &[]).map_err(|f| f.code), Err(36), "{name}");
    }
}

#[test]
fn sessions_carry_their_limits() {
    let check = |query: &str, expected: Option<(u64, bool)>| {
        let session = post(query).session.map(|s| (s.timeout.as_secs(), s.must_exist));
        assert_eq!(session, expected, "{query}");
    };
    check("session_timeout=5", None);
    check("session_id=s", Some((60, false)));
    check("session_id=s&session_timeout=5&session_check=1", Some((5, true)));
    assert_eq!(parse(&Method::POST, "session_id=s&session_timeout=3601", &[]).map_err(|f| f.code), Err(374));
}

proptest! {
    #[test]
    fn arbitrary_query_strings_never_panic(query in "[a-z0-9=&%+_;.-]{0,80}") {
        let _ = parse(&Method::POST, &query, &[]);
    }
}
