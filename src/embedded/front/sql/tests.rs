//! One table per kind of statement, and a law over arbitrary bytes.

use proptest::prelude::*;

use super::*;

fn check_insert(sql: &str, head: &str, format: &str, data: &str) {
    match parse(sql.as_bytes()) {
        Statement::InsertData { head_bytes, format: found, data_start } => {
            assert_eq!((&sql[..head_bytes], found.as_str(), &sql[data_start..]), (head, format, data), "{sql:?}");
        }
        other => panic!("{sql:?}: {other:?}"),
    }
}

fn check_query(sql: &str, format: Option<&str>, streamable: bool, reads: bool) {
    let expected = Statement::Query { format: format.map(Into::into), streamable, reads };
    assert_eq!(parse(sql.as_bytes()), expected, "{sql:?}");
}

#[test]
fn the_data_of_an_insert_begins_after_the_formats_line() {
    check_insert("INSERT INTO t FORMAT TSV\n1\n\n2", "INSERT INTO t ", "TSV", "1\n\n2");
    check_insert("insert into t format RowBinary \t\r\n\n\0", "insert into t ", "RowBinary", "\n\0");
    check_insert("INSERT INTO t FORMAT JSONEachRow {\"a\":1};", "INSERT INTO t ", "JSONEachRow", "{\"a\":1};");
    check_insert("INSERT INTO t FORMAT CSV", "INSERT INTO t ", "CSV", "");
    check_insert("INSERT INTO t (a, `format`) FORMAT CSV\n1", "INSERT INTO t (a, `format`) ", "CSV", "1");
    check_insert(
        "/* FORMAT x */ INSERT INTO t -- FORMAT y\nFORMAT CSV\n1",
        "/* FORMAT x */ INSERT INTO t -- FORMAT y\n",
        "CSV",
        "1",
    );
    check_insert("INSERT INTO t SETTINGS a='FORMAT b' FORMAT CSV\n", "INSERT INTO t SETTINGS a='FORMAT b' ", "CSV", "");
    check_insert(
        "INSERT INTO FUNCTION f('x', format) FORMAT CSV\n1",
        "INSERT INTO FUNCTION f('x', format) ",
        "CSV",
        "1",
    );
}

#[test]
fn values_are_data_too() {
    check_insert("INSERT INTO t VALUES (1, ';')", "INSERT INTO t ", "Values", " (1, ';')");
    check_insert("INSERT INTO t(a)values(1);", "INSERT INTO t(a)", "Values", "(1);");
    check_insert("INSERT INTO format VALUES (1)", "INSERT INTO format ", "Values", " (1)");
    check_insert("INSERT INTO d.values VALUES (1)", "INSERT INTO d.values ", "Values", " (1)");
    check_insert("INSERT INTO TABLE format FORMAT CSV\n1", "INSERT INTO TABLE format ", "CSV", "1");
}

#[test]
fn an_insert_that_reads_elsewhere_has_no_data() {
    check_query("INSERT INTO t SELECT 1", None, false, false);
    check_query("INSERT INTO t SELECT * FROM u FORMAT TSV", Some("TSV"), false, false);
    check_query("INSERT INTO t FROM INFILE 'f' FORMAT CSV", Some("CSV"), false, false);
    check_query("INSERT INTO t", None, false, false);
}

#[test]
fn a_query_says_its_format_and_whether_blocks_stand_alone() {
    check_query("SELECT 1", None, true, true);
    check_query("SELECT 1 FORMAT JSON", Some("JSON"), true, true);
    check_query("-- c\n(SELECT 1) format JSON;", Some("JSON"), true, true);
    check_query("SELECT 1 FORMAT CSV SETTINGS max_threads = 1", Some("CSV"), true, true);
    check_query("SELECT 1 SETTINGS max_threads = 1 FORMAT CSV", Some("CSV"), true, true);
    check_query("SELECT format FROM t", None, true, true);
    check_query("SELECT 'FORMAT CSV', format('{}', x), $a$ FORMAT CSV $a$", None, true, true);
    check_query("SELECT count() FROM t GROUP BY a WITH TOTALS", None, false, true);
    check_query("SELECT 1 SETTINGS extremes = 1", None, false, true);
    check_query("DESCRIBE TABLE t", None, false, true);
    check_query("CREATE TABLE t (a Int8) ENGINE = Memory", None, false, false);
    check_query("SELECT 'unterminated", None, true, true);
}

#[test]
fn one_request_is_one_statement() {
    for sql in ["SELECT 1; SELECT 2", "SELECT 1;;DROP TABLE t", "SELECT ';';x", "SELECT 1; 'x'"] {
        assert_eq!(parse(sql.as_bytes()), Statement::Several, "{sql:?}");
    }
    for sql in ["", "  \n", "-- only this", "/* or", "# this", "#!this"] {
        assert_eq!(parse(sql.as_bytes()), Statement::Empty, "{sql:?}");
    }
    for sql in [&b"??"[..], b"\xff SELECT 1", b"\0SELECT 1", b"; SELECT 1", b"'SELECT 1'", b") SELECT 1"] {
        assert_eq!(parse(sql), Statement::Garbled, "{sql:?}");
    }
    check_query("SELECT 1; -- end", None, true, true);
    check_query("SELECT 1;; /* ; */ ", None, true, true);
}

proptest! {
    #[test]
    fn any_bytes_are_read_and_offsets_stay_inside(mut sql in proptest::collection::vec(any::<u8>(), 0..200), insert: bool) {
        if insert {
            sql.splice(0..0, *b"INSERT INTO t ");
        }
        if let Statement::InsertData { head_bytes, data_start, .. } = parse(&sql) {
            prop_assert!(head_bytes < data_start && data_start <= sql.len());
        }
    }

    #[test]
    fn data_is_never_looked_into(data in proptest::collection::vec(any::<u8>(), 0..200)) {
        let sql = [&b"INSERT INTO t FORMAT RowBinary\n"[..], &data].concat();
        let expected = Statement::InsertData { head_bytes: 14, format: "RowBinary".into(), data_start: 31 };
        prop_assert_eq!(parse(&sql), expected);
    }
}
