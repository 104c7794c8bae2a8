//! Starting and stopping real processes; the engine itself is in `tests/live`.

use super::*;

fn sh(script: &str) -> Command {
    let mut command = Command::new("/bin/sh");
    command.args(["-c", script]);
    command
}

#[test]
fn the_first_line_names_the_address() {
    let check = |line, expected: Option<&str>| {
        assert_eq!(listening_address(line), expected.map(|a| a.parse().expect("address")), "{line:?}");
    };
    check("listening 127.0.0.1:8123\n", Some("127.0.0.1:8123"));
    check("listening [::1]:8123", Some("[::1]:8123"));
    check("", None);
    check("listening nowhere\n", None);
    check("error: listening 127.0.0.1:8123\n", None);
}

#[tokio::test]
async fn a_process_that_ends_before_it_is_ready_is_an_error_with_its_last_lines() {
    for ready in [Ready::Line, Ready::Ping(([127, 0, 0, 1], 9).into())] {
        let error = Running::start(sh("echo first >&2; echo disk full >&2; exit 3"), ready).await.expect_err("ended");
        let message = error.to_string();
        assert!(message.contains("exit status: 3") && message.contains("first | disk full"), "{message}");
    }
}

#[tokio::test]
async fn a_binary_that_is_not_there_is_named() {
    let error = Running::start(Command::new("/nonexistent/engine"), Ready::Line).await.expect_err("absent");
    assert!(error.to_string().contains("/nonexistent/engine"), "{error}");
}

#[tokio::test]
async fn stop_ends_a_process_that_watches_its_standard_input() {
    let script = "trap '' TERM; echo listening 127.0.0.1:1; cat >/dev/null";
    let running = Running::start(sh(script), Ready::Line).await.expect("ready");
    assert!(running.pid().is_some());
    running.stop().await.expect("status 0");
}

#[tokio::test]
async fn a_process_that_does_not_end_cleanly_is_reported() {
    let script = "trap 'exit 7' TERM; echo listening 127.0.0.1:1; while :; do read line; done";
    let running = Running::start(sh(script), Ready::Line).await.expect("ready");
    let message = running.stop().await.expect_err("status 7").to_string();
    assert!(message.contains("exit status: 7"), "{message}");
}
