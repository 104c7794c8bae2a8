#!/usr/bin/env python3
"""Runs agents instrumented with the plain OpenTelemetry SDK and prints what they sent, as JSON.

The endpoint is OTEL_EXPORTER_OTLP_ENDPOINT, headers are OTEL_EXPORTER_OTLP_HEADERS, as for any SDK.
The model is a small server of this script that answers as the OpenAI API does: the instrumentation
packages patch the real client and see real responses. Nothing here knows Custody.

    otel_python.py --protocol http/protobuf|grpc --instrumentation openai-v2|openai-v2-latest|openinference

Exit code 1 if an exporter could not deliver.
"""

import argparse
import http.server
import json
import os
import sys
import threading
import uuid

MODEL = "gpt-4o-mini"
ANSWERS = {
    # Token counts differ by model, so that a mix-up shows.
    "tool": {"tokens": (21, 7), "finish_reason": "tool_calls"},
    "text": {"tokens": (40, 11), "finish_reason": "stop"},
}
QUESTION = "What is the weather in Graz?"
ANSWER = "Sunny, 21 degrees."
TOOL_CALL_ID = "call_live_1"


class Model(http.server.BaseHTTPRequestHandler):
    """POST /v1/chat/completions: a tool call, then a text; 429 for the model `overloaded`."""

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        if body["model"] == "overloaded":
            return self.answer(429, {"error": {"message": "too many requests", "type": "requests", "code": "429"}})
        had_tool = any(message["role"] == "tool" for message in body["messages"])
        answer = ANSWERS["text" if had_tool else "tool"]
        message = {"role": "assistant", "content": ANSWER if had_tool else None}
        if not had_tool:
            function = {"name": "get_weather", "arguments": '{"city":"Graz"}'}
            message["tool_calls"] = [{"id": TOOL_CALL_ID, "type": "function", "function": function}]
        prompt, completion = answer["tokens"]
        self.answer(200, {
            "id": "chatcmpl-live", "object": "chat.completion", "created": 1768208400,
            "model": body["model"] + "-2024-07-18", "system_fingerprint": "fp_live",
            "choices": [{"index": 0, "message": message, "finish_reason": answer["finish_reason"]}],
            "usage": {"prompt_tokens": prompt, "completion_tokens": completion,
                      "total_tokens": prompt + completion},
        })

    def answer(self, status, value):
        data = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_):
        pass


def exporters(protocol):
    if protocol == "grpc":
        from opentelemetry.exporter.otlp.proto.grpc._log_exporter import OTLPLogExporter
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
        return OTLPSpanExporter(insecure=True), OTLPLogExporter(insecure=True)
    from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    return OTLPSpanExporter(), OTLPLogExporter()


def counting(exporter, failures):
    """Counts exports that failed: the SDK only logs them."""
    export = exporter.export

    def counted(batch):
        result = export(batch)
        if result.name != "SUCCESS":
            failures.append(result.name)
        return result

    exporter.export = counted
    return exporter


def providers(protocol, service, failures):
    from opentelemetry import _logs, trace
    from opentelemetry.sdk._logs import LoggerProvider
    from opentelemetry.sdk._logs.export import BatchLogRecordProcessor
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    resource = Resource.create({
        "service.name": service, "service.version": "1.0.0", "service.instance.id": "live-1",
        "deployment.environment.name": "staging",
    })
    spans, logs = (counting(exporter, failures) for exporter in exporters(protocol))
    tracing = TracerProvider(resource=resource)
    tracing.add_span_processor(BatchSpanProcessor(spans))
    trace.set_tracer_provider(tracing)
    logging = LoggerProvider(resource=resource)
    logging.add_log_record_processor(BatchLogRecordProcessor(logs))
    _logs.set_logger_provider(logging)
    return tracing, logging


def instrument(name, conversation):
    """Patches the OpenAI client; returns a context manager for the run."""
    import contextlib
    if name == "openinference":
        from openinference.instrumentation import using_session
        from openinference.instrumentation.openai import OpenAIInstrumentor
        OpenAIInstrumentor().instrument()
        return using_session(conversation)
    from opentelemetry.instrumentation.openai_v2 import OpenAIInstrumentor
    OpenAIInstrumentor().instrument()
    return contextlib.nullcontext()


def run(args, base_url, conversation, tracer):
    """One turn of an agent: model, tool, model, and a model that refuses."""
    import openai
    client = openai.OpenAI(base_url=base_url, api_key="live", max_retries=0)
    messages = [{"role": "user", "content": QUESTION}]
    tools = [{"type": "function", "function": {
        "name": "get_weather", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}}}]
    if args.instrumentation == "openinference":
        agent = {"openinference.span.kind": "AGENT", "agent.name": "live-agent", "session.id": conversation}
        tool = {"openinference.span.kind": "TOOL", "tool.name": "get_weather", "session.id": conversation,
                "tool_call.id": TOOL_CALL_ID, "input.value": '{"city":"Graz"}', "output.value": '{"t":21}'}
    else:
        agent = {"gen_ai.operation.name": "invoke_agent", "gen_ai.agent.name": "live-agent",
                 "gen_ai.conversation.id": conversation}
        tool = {"gen_ai.operation.name": "execute_tool", "gen_ai.tool.name": "get_weather",
                "gen_ai.tool.call.id": TOOL_CALL_ID, "gen_ai.conversation.id": conversation,
                "gen_ai.tool.call.arguments": '{"city":"Graz"}', "gen_ai.tool.call.result": '{"t":21}'}
    with tracer.start_as_current_span("invoke_agent live-agent", attributes=agent) as root:
        reply = client.chat.completions.create(model=MODEL, messages=messages, tools=tools).choices[0].message
        with tracer.start_as_current_span("execute_tool get_weather", attributes=tool):
            pass
        messages += [reply.model_dump(exclude_none=True),
                     {"role": "tool", "tool_call_id": TOOL_CALL_ID, "content": '{"t":21}'}]
        client.chat.completions.create(model=MODEL, messages=messages, tools=tools)
        try:
            client.chat.completions.create(model="overloaded", messages=messages)
        except openai.RateLimitError:
            pass
        return format(root.get_span_context().trace_id, "032x")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--protocol", choices=["http/protobuf", "grpc"], default="http/protobuf")
    parser.add_argument("--instrumentation", default="openai-v2",
                        choices=["openai-v2", "openai-v2-latest", "openinference"])
    args = parser.parse_args()
    if args.instrumentation == "openai-v2-latest":
        os.environ["OTEL_SEMCONV_STABILITY_OPT_IN"] = "gen_ai_latest_experimental"
        os.environ["OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT"] = "span_only"

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Model)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    failures = []
    service = f"live-python-{args.instrumentation}"
    tracing, logging = providers(args.protocol, service, failures)
    conversation = f"live-{uuid.uuid4().hex[:12]}"
    with instrument(args.instrumentation, conversation):
        base_url = f"http://127.0.0.1:{server.server_port}/v1"
        trace_id = run(args, base_url, conversation, tracing.get_tracer("live"))
    tracing.shutdown()
    logging.shutdown()
    server.shutdown()
    calls = [{"model": MODEL, "response_model": MODEL + "-2024-07-18", "input_tokens": tokens[0],
              "output_tokens": tokens[1], "finish_reason": answer["finish_reason"], "status": "ok"}
             for answer in ANSWERS.values() for tokens in [answer["tokens"]]]
    # OpenInference has no attribute for it but the exception's.
    error_type = "openai.RateLimitError" if args.instrumentation == "openinference" else "RateLimitError"
    calls.append({"model": "overloaded", "status": "error", "error_type": error_type})
    print(json.dumps({
        "sdk": "python", "protocol": args.protocol, "instrumentation": args.instrumentation, "service": service,
        "agent": "live-agent", "session": conversation, "trace_id": trace_id, "environment": "staging",
        "model_calls": calls, "tools": [{"id": TOOL_CALL_ID, "name": "get_weather", "status": "ok"}],
        "rate_limits": 1, "failed_exports": len(failures),
    }))
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
