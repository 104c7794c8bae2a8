//! What a registry's answer says about a schema, and what it does not.
//!
//! Pure. Only an answer that a registry alone can give is a fact: a schema, or error code 40403 for an
//! id that does not exist. Everything else, a proxy's own 404 among it, says that the registry is away.

use reqwest::StatusCode;
use serde::Deserialize;

use super::RegistryError;

/// Error code of an id that does not exist (Confluent Schema Registry API v1).
const SCHEMA_NOT_FOUND: u64 = 40403;
/// The only type of schema that records are read with; also what a registry means that names none.
const AVRO: &str = "AVRO";
/// Most bytes of an answer that are read; our largest schema has 16 KiB.
pub(super) const ANSWER_BYTES_MAX: usize = 1 << 20;

/// An answer as it came.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: StatusCode,
    /// Whether it calls itself JSON.
    pub(super) is_json: bool,
    /// At most [`ANSWER_BYTES_MAX`].
    pub(super) body: Vec<u8>,
    /// Whether that is all of it.
    pub(super) is_whole: bool,
}

/// What a registry holds under an id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Held {
    /// The text of an Avro schema.
    Avro(String),
    /// Something that no record is read with, and why.
    Other(String),
    /// Nothing.
    Nothing,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Schema {
    schema: String,
    schema_type: Option<String>,
    #[serde(default)]
    references: Vec<serde_json::Value>,
}

#[derive(Deserialize)]
struct Refusal {
    error_code: u64,
    #[serde(default)]
    message: String,
}

/// What is held, by the answer to a question for one schema.
pub(super) fn held(what: &str, answer: &Answer) -> Result<Held, RegistryError> {
    let is_absent = |refusal: &Refusal| refusal.error_code == SCHEMA_NOT_FOUND;
    if answer.status == StatusCode::NOT_FOUND && refusal(answer).as_ref().is_some_and(is_absent) {
        return Ok(Held::Nothing);
    }
    if answer.status == StatusCode::OK && answer.is_json && !answer.is_whole {
        return Ok(Held::Other(format!("it is larger than {ANSWER_BYTES_MAX} bytes; register a smaller one")));
    }
    let Schema { schema, schema_type, references } = read(what, answer)?;
    Ok(match schema_type {
        Some(other) if other != AVRO => Held::Other(format!("it is of type {}, not {AVRO}", plain(&other))),
        _ if !references.is_empty() => {
            Held::Other("it refers to other subjects; register it whole, every named type at its first use".to_owned())
        }
        _ => Held::Avro(schema),
    })
}

/// The document in a successful answer.
pub(super) fn read<T: for<'a> Deserialize<'a>>(what: &str, answer: &Answer) -> Result<T, RegistryError> {
    let failed = |message: String| RegistryError { what: what.to_owned(), message };
    if !answer.status.is_success() {
        return Err(failed(refused(answer)));
    }
    if !answer.is_whole {
        return Err(failed(format!("the answer has more than {ANSWER_BYTES_MAX} bytes; {WRONG_PLACE}")));
    }
    serde_json::from_slice(&answer.body)
        .map_err(|_| failed(format!("the answer is not what a registry says; {WRONG_PLACE}")))
}

const WRONG_PLACE: &str =
    "check that schemas.registry.url is a schema registry with Confluent's API, its path included";

/// Why an answer is no success, and what helps.
fn refused(answer: &Answer) -> String {
    let said = refusal(answer).map(|r| format!(" ({}: {})", r.error_code, plain(&r.message))).unwrap_or_default();
    let remedy = match answer.status.as_u16() {
        401 | 403 => {
            "correct schemas.registry.user and password_file, or token_file; the user needs to read schemas".to_owned()
        }
        429 => "the registry limits requests; it is asked again".to_owned(),
        500.. => "see the registry's log".to_owned(),
        _ => WRONG_PLACE.to_owned(),
    };
    format!("status {}{said}; {remedy}", answer.status.as_u16())
}

fn refusal(answer: &Answer) -> Option<Refusal> {
    serde_json::from_slice(&answer.body).ok()
}

/// The start of somebody else's text, fit for one line.
fn plain(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(200).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(status: u16, body: &str) -> Answer {
        let status = StatusCode::from_u16(status).expect("a status");
        Answer { status, is_json: body.starts_with(['{', '[']), body: body.into(), is_whole: true }
    }

    #[test]
    fn only_what_a_registry_alone_can_say_is_a_fact() {
        let check = |status: u16, body: &str, expected: Result<Held, &str>| {
            let found = held("schema 7", &answer(status, body));
            match (found, expected) {
                (Ok(found), Ok(expected)) => assert_eq!(found, expected, "{body}"),
                (Err(found), Err(part)) => assert!(found.to_string().contains(part), "{found} has no {part}"),
                (found, expected) => panic!("{status} {body}: {found:?}, not {expected:?}"),
            }
        };
        let avro = || Ok(Held::Avro("\"int\"".to_owned()));
        check(200, r#"{"schema":"\"int\""}"#, avro());
        check(200, r#"{"schema":"\"int\"","schemaType":"AVRO","references":[],"guid":"x"}"#, avro());
        let other = |why: &str| Ok(Held::Other(why.to_owned()));
        check(200, r#"{"schema":"{}","schemaType":"JSON"}"#, other("it is of type JSON, not AVRO"));
        check(
            200,
            r#"{"schema":"\"x.Y\"","references":[{"name":"x.Y","subject":"y","version":1}]}"#,
            other("it refers to other subjects; register it whole, every named type at its first use"),
        );
        check(404, r#"{"error_code":40403,"message":"Schema 7 not found"}"#, Ok(Held::Nothing));
        check(404, "<html>Not Found</html>", Err("status 404; check that schemas.registry.url"));
        check(404, r#"{"error_code":404,"message":"HTTP 404 Not Found"}"#, Err("(404: HTTP 404 Not Found)"));
        check(404, r#"{"error_code":40401,"message":"Subject not found"}"#, Err("40401"));
        check(404, r#"{"message":"no Route matched"}"#, Err("status 404"));
        check(404, "", Err("status 404"));
        check(500, r#"{"error_code":40403,"message":"x"}"#, Err("see the registry's log"));
        check(503, "", Err("status 503"));
        check(401, "", Err("schemas.registry.user"));
        check(301, "", Err("schemas.registry.url"));
        check(200, "<html>log in</html>", Err("not what a registry says"));
        check(200, r#"{"schema":7}"#, Err("not what a registry says"));
        check(200, r#"{"schema":"\"int\""#, Err("not what a registry says"));
        check(200, "[]", Err("not what a registry says"));
    }

    #[test]
    fn an_answer_too_large_is_a_fact_only_if_it_calls_itself_json() {
        let huge = |is_json| Answer { is_json, is_whole: false, ..answer(200, "{\"schema\":\"") };
        assert!(matches!(held("schema 7", &huge(true)), Ok(Held::Other(why)) if why.contains("1048576")));
        assert!(held("schema 7", &huge(false)).is_err());
    }

    #[test]
    fn what_is_said_by_others_stays_on_one_line() {
        let body = format!(r#"{{"error_code":50001,"message":"a\nb{}"}}"#, "c".repeat(5_000));
        let text = held("schema 7", &answer(500, &body)).expect_err("a failure").to_string();
        assert!(text.len() < 400 && !text.contains('\n'), "{text}");
    }
}
