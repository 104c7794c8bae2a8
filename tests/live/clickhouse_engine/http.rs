//! The HTTP interface as curl sees it: statements by URL, body and form, encodings, headers, errors, damaged input.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::process::{Command, Stdio};

use custody::embedded::EmbeddedClickHouse;

use super::fresh;

/// Status, headers and body of one curl call.
struct Answer {
    status: u16,
    headers: String,
    body: Vec<u8>,
}

impl Answer {
    fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

fn curl(engine: &EmbeddedClickHouse, path: &str, arguments: &[&str], input: &[u8]) -> Answer {
    let mut command = Command::new("curl");
    command.args(["--silent", "--include", "--no-buffer", "--max-time", "60"]).args(arguments);
    command.arg(format!("{}{path}", engine.url())).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().expect("curl is installed");
    let (mut stdin, input) = (child.stdin.take().unwrap(), input.to_vec());
    let writer = std::thread::spawn(move || stdin.write_all(&input).is_ok());
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap();
    parse(&output.stdout)
}

fn parse(raw: &[u8]) -> Answer {
    let end = raw.windows(4).position(|w| w == b"\r\n\r\n").expect("headers");
    let headers = String::from_utf8_lossy(&raw[..end]).to_lowercase();
    let status: u16 = headers.split(' ').nth(1).unwrap().parse().unwrap();
    if status == 100 {
        return parse(&raw[end + 4..]);
    }
    Answer { status, headers, body: raw[end + 4..].to_vec() }
}

fn post(engine: &EmbeddedClickHouse, path: &str, body: &[u8]) -> Answer {
    curl(engine, path, &["--data-binary", "@-"], body)
}

fn check(engine: &EmbeddedClickHouse, path: &str, body: &str, expected: &str) {
    let answer = post(engine, path, body.as_bytes());
    assert_eq!((answer.status, answer.text().as_str()), (200, expected), "{path} {body}");
}

fn check_error(engine: &EmbeddedClickHouse, path: &str, body: &[u8], status: u16, code: u32) {
    let answer = post(engine, path, body);
    assert_eq!(answer.status, status, "{path}: {}", answer.text());
    assert!(answer.headers.contains(&format!("x-clickhouse-exception-code: {code}")), "{path}: {}", answer.headers);
    assert!(answer.text().starts_with(&format!("Code: {code}. DB::Exception: ")), "{path}: {}", answer.text());
}

#[tokio::test]
async fn a_statement_comes_by_url_body_or_both() {
    let (_dir, engine) = fresh().await;
    assert_eq!(curl(&engine, "/ping", &[], b"").text(), "Ok.\n");
    assert_eq!(curl(&engine, "/", &[], b"").text(), "Ok.\n");
    assert_eq!(curl(&engine, "/nowhere", &[], b"").status, 404);
    assert_eq!(curl(&engine, "/?query=SELECT%201", &[], b"").text(), "1\n");
    check(&engine, "/", "SELECT 2;", "2\n");
    check(&engine, "/?query=SELECT+3+AS+x", "FORMAT JSONEachRow", "{\"x\":3}\n");
    check(&engine, "/?default_format=CSV&database=system", "SELECT 'a', count() FROM one", "\"a\",1\n");
    check(&engine, "/?param_a=x%27y&param_n=4", "SELECT {a:String}, {n:UInt8} + 1", "x\\'y\t5\n");
    check(&engine, "/?max_threads=3", "SELECT getSetting('max_threads')", "3\n");
    check(&engine, "/", "SELECT 1 WHERE 0", "");
    let form = ["--form-string", "query=SELECT {a:String} || ';'", "--form-string", "param_a=b"];
    assert_eq!(curl(&engine, "/", &form, b"").text(), "b;\n");
    engine.stop().await.unwrap();
}

#[tokio::test]
async fn an_answer_says_what_it_is() {
    let (_dir, engine) = fresh().await;
    let answer = post(&engine, "/?query_id=q-7", b"SELECT number FROM numbers(10) FORMAT JSON");
    for part in [
        "x-clickhouse-query-id: q-7",
        "x-clickhouse-format: json",
        "x-clickhouse-timezone: ",
        "content-type: application/json",
        "x-clickhouse-summary: {\"read_rows\":\"10\"",
    ] {
        assert!(answer.headers.contains(part), "{part} is missing in {}", answer.headers);
    }
    assert!(answer.text().contains("\"rows\": 10"));
    engine.stop().await.unwrap();
}

#[tokio::test]
async fn data_follows_its_statement_in_url_or_body() {
    let (_dir, engine) = fresh().await;
    check(&engine, "/", "CREATE TABLE t (a UInt32, b String) ENGINE = MergeTree ORDER BY a", "");
    check(&engine, "/?query=INSERT+INTO+t+FORMAT+TSV", "1\tone\n2\ttwo\n", "");
    check(&engine, "/", "INSERT INTO t FORMAT CSV\n3,\"a\n\nDROP TABLE t;\"\n", "");
    check(&engine, "/?query=INSERT+INTO+t+VALUES", "(4, 'a;b'), (5, upper('x'))", "");
    check(&engine, "/", "INSERT INTO t (a, b) VALUES (6, 'six');", "");
    check(&engine, "/", "INSERT INTO t SELECT 7, 'seven'", "");
    check(&engine, "/?query=INSERT+INTO+t+FORMAT+JSONEachRow", "", "");
    let inserted = post(&engine, "/?query=INSERT+INTO+t+FORMAT+JSONEachRow", b"{\"a\":8}\n{\"a\":9}\n");
    assert!(inserted.headers.contains("\"written_rows\":\"2\""), "{}", inserted.headers);
    check(&engine, "/", "SELECT groupArray(a) FROM (SELECT a FROM t ORDER BY a)", "[1,2,3,4,5,6,7,8,9]\n");
    check(&engine, "/", "SELECT b FROM t WHERE a = 3 FORMAT JSONEachRow", "{\"b\":\"a\\n\\nDROP TABLE t;\"}\n");
    engine.stop().await.unwrap();
}

#[tokio::test]
async fn bodies_and_answers_are_compressed_as_the_headers_say() {
    let (dir, engine) = fresh().await;
    check(&engine, "/", "CREATE TABLE t (a UInt32) ENGINE = MergeTree ORDER BY a", "");
    let plain: String = (0..50_000).map(|n| format!("{n}\n")).collect();
    let packed = |program: &str, arguments: &[&str]| {
        let file = dir.path().join("rows.tsv");
        std::fs::write(&file, &plain).unwrap();
        Command::new(program).args(arguments).arg(&file).output().expect("packer is installed").stdout
    };
    let insert = "/?query=INSERT+INTO+t+FORMAT+TSV";
    let arguments = ["--data-binary", "@-", "--header", "Content-Encoding: gzip"];
    assert_eq!(curl(&engine, insert, &arguments, &packed("gzip", &["-c"])).status, 200);
    check(&engine, "/", "SELECT count(), sum(a) FROM t", "50000\t1249975000\n");
    for encoding in ["gzip", "deflate"] {
        let arguments = ["--compressed", "--header", &format!("Accept-Encoding: {encoding}")];
        let answer = curl(&engine, "/?query=SELECT+a+FROM+t+ORDER+BY+a", &arguments, b"");
        assert!(answer.headers.contains(&format!("content-encoding: {encoding}")), "{}", answer.headers);
        assert!(answer.text() == plain, "{encoding}");
    }
    let native = post(&engine, "/?compress=1", b"SELECT a FROM t ORDER BY a").body;
    assert!(native.len() < plain.len());
    check(&engine, "/", "TRUNCATE TABLE t", "");
    assert_eq!(post(&engine, &format!("{insert}&decompress=1"), &native).status, 200);
    check(&engine, "/", "SELECT count(), sum(a) FROM t", "50000\t1249975000\n");
    engine.stop().await.unwrap();
}

#[tokio::test]
async fn errors_carry_clickhouses_code_and_status() {
    let (_dir, engine) = fresh().await;
    check(&engine, "/", "CREATE TABLE t (a UInt32) ENGINE = MergeTree ORDER BY a", "");
    check_error(&engine, "/", b"SELEC 1", 400, 62);
    check_error(&engine, "/", b"", 400, 62);
    check_error(&engine, "/", b"SELECT 1; DROP TABLE t", 400, 62);
    check_error(&engine, "/", b"SELECT * FROM nowhere", 404, 60);
    check_error(&engine, "/?nosuchsetting=1", b"SELECT 1", 404, 115);
    check_error(&engine, "/?a%3D1%2C+b=1", b"SELECT 1", 400, 36);
    check_error(&engine, "/?database=nowhere", b"SELECT 1", 404, 81);
    check_error(&engine, "/", b"SELECT 1 FORMAT Nope", 404, 73);
    check_error(&engine, "/", b"SELECT throwIf(1)", 500, 395);
    check_error(&engine, "/?user=analyst", b"SELECT 1", 403, 516);
    check_error(&engine, "/?query=INSERT+INTO+t+FORMAT+JSONEachRow", b"{\"a\":\"x\"}", 400, 27);
    check_error(&engine, "/?query=INSERT+INTO+nowhere+FORMAT+TSV", b"1\n", 404, 60);
    let read_only = curl(&engine, "/?query=CREATE+TABLE+u+(a+Int8)+ENGINE=Memory", &[], b"");
    assert!(read_only.text().starts_with("Code: 164."), "{}", read_only.text());
    let insert = curl(&engine, "/?query=INSERT+INTO+t+VALUES+(1)", &[], b"");
    assert!(insert.text().starts_with("Code: 164."), "{}", insert.text());
    check(&engine, "/", "SELECT count() FROM t", "0\n");
    engine.stop().await.unwrap();
}

#[tokio::test]
async fn damaged_input_is_refused_and_the_engine_lives() {
    let (_dir, engine) = fresh().await;
    check(&engine, "/", "CREATE TABLE t (a UInt32) ENGINE = MergeTree ORDER BY a", "");
    let insert = "/?query=INSERT+INTO+t+FORMAT+TSV&decompress=1";
    let good = post(&engine, "/?compress=1", b"SELECT number FROM numbers(100)").body;
    check_error(&engine, insert, b"neither a hash nor a block, only text", 500, 39);
    check_error(&engine, insert, &good[..good.len() - 1], 500, 33);
    let mut flipped = good.clone();
    flipped[30] ^= 1;
    check_error(&engine, insert, &flipped, 500, 40);
    let gzip = curl(&engine, "/", &["--data-binary", "SELECT 1", "--header", "Content-Encoding: gzip"], b"");
    assert!(gzip.text().starts_with("Code: 271."), "{}", gzip.text());
    check_error(&engine, "/", b"\xff\xfe SELECT \x00", 400, 62);
    check(&engine, "/?query=SELECT+hex('%FF')", "", "FF\n");
    let form = curl(
        &engine,
        "/",
        &["--data-binary", "junk", "--header", "Content-Type: multipart/form-data; boundary=x"],
        b"",
    );
    assert!(form.text().starts_with("Code: 36."), "{}", form.text());
    let many: String = (0..200).map(|n| format!("X-{n}: 1\n")).collect();
    assert_eq!(curl(&engine, "/ping", &["--header", "@-"], many.as_bytes()).status, 431);
    let address = engine.url().trim_start_matches("http://").to_owned();
    let mut stream = TcpStream::connect(&address).unwrap();
    let huge = format!("GET /ping HTTP/1.1\r\nX-Long: {}\r\n\r\n", "x".repeat(4 << 20));
    let _reset_or_written = stream.write_all(huge.as_bytes());
    check(&engine, "/", "SELECT count() FROM t", "0\n");
    engine.stop().await.unwrap();
}

#[tokio::test]
async fn a_body_that_ends_early_writes_nothing() {
    let (_dir, engine) = fresh().await;
    check(&engine, "/", "CREATE TABLE t (a UInt32) ENGINE = MergeTree ORDER BY a", "");
    let address = engine.url().trim_start_matches("http://").to_owned();
    let mut stream = TcpStream::connect(&address).unwrap();
    let head = "POST /?query=INSERT+INTO+t+FORMAT+TSV HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n1\n2\n3\n";
    stream.write_all(head.as_bytes()).unwrap();
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    let mut answer = Vec::new();
    let _reset_or_answer = stream.read_to_end(&mut answer);
    let answer = String::from_utf8_lossy(&answer);
    assert!(!answer.starts_with("HTTP/1.1 200"), "{answer}");
    check(&engine, "/", "SELECT count() FROM t", "0\n");
    engine.stop().await.unwrap();
}

#[tokio::test]
async fn a_session_keeps_its_tables_and_no_others_settings() {
    let (_dir, engine) = fresh().await;
    check(&engine, "/?session_id=s", "CREATE TEMPORARY TABLE u (a UInt8) ENGINE = Memory", "");
    check(&engine, "/?session_id=s&max_threads=3", "INSERT INTO u VALUES (7)", "");
    check(&engine, "/?session_id=s&session_check=1", "SELECT a, getSetting('max_threads') != 3 FROM u", "7\t1\n");
    check_error(&engine, "/", b"SELECT a FROM u", 404, 60);
    check_error(&engine, "/?session_id=other&session_check=1", b"SELECT 1", 500, 372);
    engine.stop().await.unwrap();
}

#[tokio::test]
async fn a_buffered_answer_is_bounded_and_a_streamed_one_is_not() {
    let (_dir, engine) = fresh().await;
    let wide = "SELECT materialize(repeat('x', 1000)) FROM numbers(700000)";
    check_error(&engine, "/", format!("{wide} FORMAT JSON").as_bytes(), 500, 396);
    let streamed = post(&engine, "/", wide.as_bytes());
    assert_eq!((streamed.status, streamed.body.len()), (200, 700_000 * 1001));
    engine.stop().await.unwrap();
}
