//! Each known shape gives its steps; anything else is refused by name.

use serde_json::json;

use super::*;
use crate::fleet::Step;

fn model(input: &str, output: &str, calls_tools: bool) -> Step {
    Step::Model { input: input.into(), output: output.into(), calls_tools }
}

fn tool(name: &str, arguments: &str, result: &str, failed: bool) -> Step {
    Step::Tool { name: name.into(), arguments: arguments.into(), result: result.into(), failed }
}

#[test]
fn tau_bench_pairs_calls_with_results_and_keeps_the_reward() {
    let call = json!([{"id": "c1", "function": {"name": "look", "arguments": "{\"id\":1}"}}]);
    let runs = parse(
        &json!([{"task_id": 7, "trial": 0, "reward": 1.0, "traj": [
            {"role": "system", "content": "policy"},
            {"role": "user", "content": "hello"},
            {"role": "assistant", "content": null, "tool_calls": call},
            {"role": "tool", "tool_call_id": "c1", "content": "Error: no such id"},
            {"role": "assistant", "content": "sorry"},
        ]}]),
        "gpt-4o-airline",
    )
    .expect("tau-bench shape");
    let calls = r#"[{"arguments":"{\"id\":1}","name":"look"}]"#;
    assert_eq!(
        runs[0].steps,
        [
            model("hello", calls, true),
            tool("look", "{\"id\":1}", "Error: no such id", true),
            model("Error: no such id", "sorry", false),
            Step::Output { text: "sorry".into() },
        ]
    );
    assert_eq!((runs[0].reward, runs[0].provider.as_str(), runs[0].task_id.as_str()), (Some(1.0), "openai", "7/0"));
}

#[test]
fn intercode_turns_are_a_model_call_and_a_tool_call() {
    let runs = parse(
        &json!({"0": {"environment": "ic_bash", "task_id": 3, "query": "list", "summary": {"max_reward": 0.5},
            "turn_history": {"actions": ["ls"], "observations": ["a b"], "valid_action": [false]}}}),
        "bash__vicuna__x",
    )
    .expect("InterCode shape");
    assert_eq!(runs[0].agent_id, "bash-vicuna");
    assert_eq!(
        runs[0].steps,
        [
            model("list", "ls", true),
            tool("bash", r#"{"command":"ls"}"#, "a b", true),
            Step::Output { text: "a b".into() }
        ]
    );
}

#[test]
fn chat_format_is_read_as_a_document_or_a_list() {
    let messages =
        json!([{"role": "user", "content": [{"type": "text", "text": "hi"}]}, {"role": "assistant", "content": "yo"}]);
    for document in
        [messages.clone(), json!({ "messages": messages }), json!([{ "messages": messages, "model": "claude-3" }])]
    {
        let runs = parse(&document, "chats").expect("chat format");
        assert_eq!(runs[0].steps, [model("hi", "yo", false), Step::Output { text: "yo".into() }]);
    }
}

#[test]
fn an_unknown_shape_is_refused() {
    assert!(parse(&json!({"rows": []}), "x").is_err());
}
