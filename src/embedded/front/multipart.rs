//! `multipart/form-data` as ClickHouse clients send it: the statement and `{name:Type}` parameters as form fields.
//!
//! Files (ClickHouse's external tables) are refused, not ignored.

use super::failure::{Code, Failure};

/// The boundary, if the content type is `multipart/form-data`.
pub(crate) fn boundary(content_type: &str) -> Option<&str> {
    let mut parts = content_type.split(';').map(str::trim);
    parts.next().filter(|kind| kind.eq_ignore_ascii_case("multipart/form-data"))?;
    let value = parts.find_map(|part| attribute(part, "boundary"))?;
    Some(value).filter(|value| !value.is_empty() && value.len() <= 70)
}

/// Names and values of the fields, in order (RFC 7578).
///
/// # Errors
/// Code 36 for a body that is not what its content type says, 48 for a file.
pub(crate) fn fields(body: &[u8], boundary: &str) -> Result<Vec<(String, Vec<u8>)>, Failure> {
    let malformed = |what: &str| Failure::new(Code::BadArguments, format!("malformed multipart body: {what}"));
    let delimiter = format!("\r\n--{boundary}");
    // The first delimiter has no line before it.
    let mut rest =
        body.strip_prefix(&delimiter.as_bytes()[2..]).ok_or_else(|| malformed("no boundary at its start"))?;
    let mut found = Vec::new();
    while !rest.starts_with(b"--") {
        let end = find(rest, delimiter.as_bytes()).ok_or_else(|| malformed("no boundary at its end"))?;
        let (part, after) = rest.split_at(end);
        found.push(field(part)?.ok_or_else(|| malformed("a part without name"))?);
        rest = after.get(delimiter.len()..).unwrap_or_default();
    }
    Ok(found)
}

/// One part, from after its boundary: line end, headers, empty line, value.
fn field(part: &[u8]) -> Result<Option<(String, Vec<u8>)>, Failure> {
    let Some(end) = find(part, b"\r\n\r\n") else { return Ok(None) };
    let headers = String::from_utf8_lossy(&part[..end]);
    let value = part.get(end + 4..).unwrap_or_default().to_vec();
    let disposition = headers.split("\r\n").find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.trim().eq_ignore_ascii_case("content-disposition").then(|| value.to_owned())
    });
    let attributes = disposition.unwrap_or_default();
    if attributes.split(';').any(|part| attribute(part.trim(), "filename").is_some()) {
        return Err(Failure::new(Code::NotImplemented, "external tables are not supported by the embedded engine"));
    }
    let name = attributes.split(';').find_map(|part| attribute(part.trim(), "name").map(str::to_owned));
    Ok(name.map(|name| (name, value)))
}

fn attribute<'t>(text: &'t str, name: &str) -> Option<&'t str> {
    let (key, value) = text.split_once('=')?;
    key.eq_ignore_ascii_case(name).then(|| value.trim_matches('"'))
}

fn find(text: &[u8], part: &[u8]) -> Option<usize> {
    text.windows(part.len()).position(|window| window == part)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn check(body: &str, expected: &[(&str, &str)]) {
        let found = fields(body.as_bytes(), "B").expect("well formed");
        let found: Vec<_> = found.iter().map(|(n, v)| (n.as_str(), std::str::from_utf8(v).expect("text"))).collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn fields_are_read_in_order_with_their_bytes() {
        check("--B--\r\n", &[]);
        let query = "--B\r\nContent-Disposition: form-data; name=\"query\"\r\n\r\nSELECT {a:String}\r\n";
        let value = "--B\r\ncontent-disposition: form-data; name=\"param_a\"\r\n\r\nx\r\n--A\r\n\r\n";
        check(
            &format!("{query}{value}\r\n--B--\r\n"),
            &[("query", "SELECT {a:String}"), ("param_a", "x\r\n--A\r\n\r\n")],
        );
        check(
            &format!("{query}--B\r\nContent-Disposition: form-data; name=e\r\n\r\n\r\n--B--"),
            &[("query", "SELECT {a:String}"), ("e", "")],
        );
    }

    #[test]
    fn what_is_not_multipart_is_refused_with_its_code() {
        let check =
            |body: &str, code| assert_eq!(fields(body.as_bytes(), "B").map_err(|f| f.code), Err(code), "{body}");
        check("", 36);
        check("SELECT 1", 36);
        check("--B\r\nContent-Disposition: form-data; name=\"q\"\r\n\r\nSELECT 1", 36);
        check("--B\r\n\r\nvalue\r\n--B--", 36);
        check("--B\r\nno empty line\r\n--B--", 36);
        check("--B\r\nContent-Disposition: form-data; name=\"t\"; filename=\"t\"\r\n\r\n1\r\n--B--", 48);
    }

    #[test]
    fn the_boundary_comes_from_the_content_type() {
        let check = |text, expected| assert_eq!(boundary(text), expected, "{text}");
        check("multipart/form-data; boundary=abc", Some("abc"));
        check("Multipart/Form-Data; charset=utf-8; Boundary=\"a b\"", Some("a b"));
        check("multipart/form-data; boundary=", None);
        check("multipart/form-data", None);
        check("text/plain; boundary=abc", None);
    }

    proptest! {
        #[test]
        fn arbitrary_bodies_never_panic(body in "(--B|\r\n|name=\"a\"|Content-Disposition:|form-data;|--|x){0,20}") {
            let _ = fields(body.as_bytes(), "B");
        }

        #[test]
        fn any_value_without_the_boundary_comes_back(value in proptest::collection::vec(any::<u8>(), 0..100)) {
            let head = b"--longboundary7\r\nContent-Disposition: form-data; name=\"v\"\r\n\r\n";
            let body = [&head[..], &value, b"\r\n--longboundary7--\r\n"].concat();
            prop_assert_eq!(fields(&body, "longboundary7"), Ok(vec![("v".to_owned(), value)]));
        }
    }
}
