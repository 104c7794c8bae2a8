// Runs an agent instrumented with the plain OpenTelemetry JS SDK and prints what it sent, as JSON.
//
// The endpoint is OTEL_EXPORTER_OTLP_ENDPOINT, headers are OTEL_EXPORTER_OTLP_HEADERS, as for any SDK.
// The spans are those of the GenAI conventions (1.37+): an agent, two model calls, a tool that works, a
// tool that fails, and a database span that is none of the agent's. Nothing here knows Custody.
//
//     node agent.js http/protobuf|http/json
//
// Exit code 1 if an exporter could not deliver.

import { randomUUID } from 'node:crypto';
import { SpanKind, SpanStatusCode, context, trace } from '@opentelemetry/api';
import { SeverityNumber } from '@opentelemetry/api-logs';
import { OTLPLogExporter as JsonLogExporter } from '@opentelemetry/exporter-logs-otlp-http';
import { OTLPLogExporter as ProtoLogExporter } from '@opentelemetry/exporter-logs-otlp-proto';
import { OTLPTraceExporter as JsonTraceExporter } from '@opentelemetry/exporter-trace-otlp-http';
import { OTLPTraceExporter as ProtoTraceExporter } from '@opentelemetry/exporter-trace-otlp-proto';
import { resourceFromAttributes } from '@opentelemetry/resources';
import { BatchLogRecordProcessor, LoggerProvider } from '@opentelemetry/sdk-logs';
import { BatchSpanProcessor, NodeTracerProvider } from '@opentelemetry/sdk-trace-node';

const protocol = process.argv[2] ?? 'http/protobuf';
if (!['http/protobuf', 'http/json'].includes(protocol)) {
  console.error(`protocol ${protocol} is not known: choose http/protobuf or http/json`);
  process.exit(2);
}
const isJson = protocol === 'http/json';

let failed = 0;
// Counts exports that failed: the SDK only logs them.
function counting(exporter) {
  const send = exporter.export.bind(exporter);
  exporter.export = (batch, done) =>
    send(batch, (result) => {
      failed += result.code === 0 ? 0 : 1;
      done(result);
    });
  return exporter;
}

const service = `live-js-${isJson ? 'json' : 'protobuf'}`;
const resource = resourceFromAttributes({
  'service.name': service,
  'service.version': '1.0.0',
  'service.instance.id': 'live-1',
  'deployment.environment.name': 'staging',
});
const spans = counting(isJson ? new JsonTraceExporter() : new ProtoTraceExporter());
const records = counting(isJson ? new JsonLogExporter() : new ProtoLogExporter());
const tracing = new NodeTracerProvider({ resource, spanProcessors: [new BatchSpanProcessor(spans)] });
const logging = new LoggerProvider({ resource, processors: [new BatchLogRecordProcessor({ exporter: records })] });
tracing.register();
const tracer = trace.getTracer('live');

const model = 'claude-sonnet-4-6';
const calls = [
  { input_tokens: 31, output_tokens: 5, finish_reason: 'tool_call' },
  { input_tokens: 52, output_tokens: 13, finish_reason: 'stop' },
];
const tools = [
  { id: 'call_js_1', name: 'get_weather', status: 'ok' },
  { id: 'call_js_2', name: 'book_train', status: 'error', error_type: 'SoldOut' },
];

function chat({ input_tokens, output_tokens, finish_reason }) {
  const span = tracer.startSpan(`chat ${model}`, {
    kind: SpanKind.CLIENT,
    attributes: {
      'gen_ai.operation.name': 'chat',
      'gen_ai.provider.name': 'anthropic',
      'gen_ai.request.model': model,
      'gen_ai.response.model': model,
      'gen_ai.response.finish_reasons': [finish_reason],
      'gen_ai.usage.input_tokens': input_tokens,
      'gen_ai.usage.output_tokens': output_tokens,
      'gen_ai.input.messages': JSON.stringify([{ role: 'user', parts: [{ type: 'text', content: 'Weather?' }] }]),
    },
  });
  span.end();
}

function execute({ id, name, error_type }) {
  const attributes = { 'gen_ai.operation.name': 'execute_tool', 'gen_ai.tool.name': name, 'gen_ai.tool.call.id': id };
  const span = tracer.startSpan(`execute_tool ${name}`, { attributes });
  if (error_type) {
    span.setAttribute('error.type', error_type);
    span.recordException({ name: error_type, message: 'no seats left' });
    span.setStatus({ code: SpanStatusCode.ERROR, message: 'no seats left' });
  }
  span.end();
}

// No conversation is named: the trace is the session, and its root its beginning and end.
const root = tracer.startSpan('invoke_agent live-agent', {
  attributes: { 'gen_ai.operation.name': 'invoke_agent', 'gen_ai.agent.name': 'live-agent' },
});
context.with(trace.setSpan(context.active(), root), () => {
  chat(calls[0]);
  tools.forEach(execute);
  tracer.startSpan('SELECT', { kind: SpanKind.CLIENT, attributes: { 'db.system.name': 'postgresql' } }).end();
  chat(calls[1]);
});
root.end();

// A coding agent's log records, as Claude Code writes them.
const session = randomUUID();
const logger = logging.getLogger('com.anthropic.claude_code.events', '2.1.0');
const emit = (name, attributes) =>
  logger.emit({
    severityNumber: SeverityNumber.INFO,
    body: `claude_code.${name}`,
    attributes: { 'event.name': name, 'session.id': session, ...attributes },
  });
emit('tool_decision', { tool_name: 'Bash', tool_use_id: 'toolu_1', decision: 'accept', source: 'user_temporary' });
emit('tool_result', { tool_name: 'Bash', tool_use_id: 'toolu_1', success: 'true', duration_ms: '12' });
emit('api_request', { model, input_tokens: '70', output_tokens: '9', cost_usd: '0.0012', duration_ms: '420' });

await tracing.shutdown();
await logging.shutdown();
const traceId = root.spanContext().traceId;
const modelCalls = calls.map((call) => ({ model, response_model: model, status: 'ok', ...call }));
console.log(
  JSON.stringify({
    sdk: 'js',
    protocol,
    service,
    agent: 'live-agent',
    session: traceId.replace(/^(.{8})(.{4})(.{4})(.{4})(.{12})$/, '$1-$2-$3-$4-$5'),
    trace_id: traceId,
    environment: 'staging',
    model_calls: modelCalls,
    tools,
    ends: 1,
    logs: {
      session,
      model_calls: [{ model, input_tokens: 70, output_tokens: 9, cost_micros: 1200, latency_ms: 420, status: 'ok' }],
      tools: [{ id: 'toolu_1', name: 'Bash', status: 'ok' }],
      approvals: [{ decision: 'approve', auth_method: 'client_asserted' }],
    },
    failed_exports: failed,
  }),
);
process.exit(failed > 0 ? 1 : 0);
