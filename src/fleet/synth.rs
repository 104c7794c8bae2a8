//! A seeded fleet of a dozen kinds of agents, for `custody demo` without recorded runs.
//!
//! Session lengths, tool mix, failures, text lengths and success rates follow figures measured on
//! real runs: 200 tau-bench airline runs of gpt-4o (sierra-research/tau-bench @ 59a200c) and 2,565
//! InterCode runs (princeton-nlp/intercode @ c3e46d8). The texts themselves are made up.

use super::{Run, Step};

/// 5th, 25th, 50th, 75th and 95th percentile of a measured figure.
type Percentiles = [u32; 5];

/// How an agent spends its turns.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Style {
    /// Talks to a person and calls tools about every other turn (tau-bench).
    Conversation,
    /// Sends one command a turn (InterCode).
    Commands,
}

/// What a kind of agent is like.
#[derive(Debug)]
struct AgentKind {
    agent_id: &'static str,
    tenant_id: &'static str,
    provider: &'static str,
    model: &'static str,
    style: Style,
    sessions: u32,
    turns: Percentiles,
    output_chars: Percentiles,
    result_chars: Percentiles,
    tools: &'static [(&'static str, u32)],
    failed_percent: u32,
    success_percent: u32,
}

/// tau-bench: calls of each tool in 200 runs.
const SUPPORT_TOOLS: &[(&str, u32)] = &[
    ("get_reservation_details", 377),
    ("search_direct_flight", 141),
    ("get_user_details", 120),
    ("update_reservation_flights", 104),
    ("calculate", 96),
    ("think", 92),
    ("cancel_reservation", 69),
    ("book_reservation", 53),
    ("transfer_to_human_agents", 48),
    ("search_onestop_flight", 38),
    ("send_certificate", 8),
];
const DESK_TOOLS: &[(&str, u32)] = &[
    ("get_order_details", 377),
    ("get_user_details", 241),
    ("update_order", 104),
    ("calculate", 96),
    ("cancel_order", 69),
    ("send_refund", 53),
];

const CONVERSATION: AgentKind = AgentKind {
    agent_id: "",
    tenant_id: "acme",
    provider: "openai",
    model: "gpt-4o",
    style: Style::Conversation,
    sessions: 36,
    turns: [5, 7, 11, 17, 25],
    output_chars: [27, 49, 186, 316, 602],
    result_chars: [1, 51, 667, 810, 1_257],
    tools: SUPPORT_TOOLS,
    failed_percent: 6,
    success_percent: 42,
};
const COMMANDS: AgentKind = AgentKind {
    style: Style::Commands,
    turns: [1, 2, 10, 10, 10],
    output_chars: [45, 65, 92, 116, 182],
    result_chars: [1, 2, 23, 92, 388],
    tools: &[("bash", 1)],
    ..CONVERSATION
};

/// Per kind: figures of the run files that it follows.
const KINDS: &[AgentKind] = &[
    AgentKind { agent_id: "flight-desk", ..CONVERSATION },
    AgentKind { agent_id: "order-desk", model: "gpt-4o-mini", tools: DESK_TOOLS, ..CONVERSATION },
    AgentKind {
        agent_id: "claims-desk",
        tenant_id: "globex",
        provider: "anthropic",
        model: "claude-3-5-sonnet",
        tools: DESK_TOOLS,
        ..CONVERSATION
    },
    AgentKind {
        agent_id: "staff-desk",
        tenant_id: "globex",
        provider: "gcp.gemini",
        model: "gemini-1.5-pro",
        tools: DESK_TOOLS,
        ..CONVERSATION
    },
    AgentKind { agent_id: "shell-ops", model: "gpt-4", failed_percent: 27, success_percent: 44, ..COMMANDS },
    AgentKind { agent_id: "shell-helper", model: "gpt-3.5-turbo", failed_percent: 34, success_percent: 45, ..COMMANDS },
    AgentKind {
        agent_id: "log-reader",
        tenant_id: "globex",
        provider: "gcp.vertex_ai",
        model: "text-bison-001",
        turns: [1, 10, 10, 10, 10],
        failed_percent: 20,
        success_percent: 17,
        ..COMMANDS
    },
    AgentKind {
        agent_id: "host-audit",
        tenant_id: "globex",
        provider: "self_hosted",
        model: "vicuna",
        failed_percent: 53,
        success_percent: 36,
        ..COMMANDS
    },
    AgentKind {
        agent_id: "sql-analyst",
        model: "gpt-4",
        sessions: 60,
        turns: [1, 3, 5, 10, 10],
        output_chars: [11, 18, 73, 135, 243],
        result_chars: [6, 39, 66, 173, 523],
        tools: &[("sql", 1)],
        failed_percent: 29,
        success_percent: 74,
        ..COMMANDS
    },
    AgentKind {
        agent_id: "report-writer",
        model: "text-davinci-003",
        sessions: 40,
        turns: [1, 10, 10, 10, 10],
        output_chars: [44, 65, 88, 129, 207],
        result_chars: [55, 60, 66, 71, 102],
        tools: &[("sql", 1)],
        failed_percent: 95,
        success_percent: 16,
        ..COMMANDS
    },
    AgentKind {
        agent_id: "puzzle-solver",
        model: "gpt-4",
        turns: [2, 4, 8, 10, 10],
        output_chars: [2, 15, 37, 137, 762],
        result_chars: [1, 7, 40, 130, 2_085],
        tools: &[("ctf", 1)],
        failed_percent: 27,
        success_percent: 40,
        ..COMMANDS
    },
    AgentKind {
        agent_id: "code-writer",
        tenant_id: "globex",
        provider: "anthropic",
        model: "claude-3-5-sonnet",
        turns: [1, 1, 1, 7, 7],
        output_chars: [61, 102, 150, 202, 404],
        result_chars: [27, 41, 41, 41, 58],
        tools: &[("python", 1)],
        failed_percent: 41,
        success_percent: 59,
        ..COMMANDS
    },
];

/// The fleet of a seed.
pub fn fleet(seed: u64) -> Vec<Run> {
    let mut runs = Vec::new();
    for (index, kind) in KINDS.iter().enumerate() {
        for session in 0..kind.sessions {
            // A generator per session: one more kind or session leaves all others as they are.
            let seed = seed ^ ((index as u64) << 40) ^ (u64::from(session) << 20) ^ 0x5eed;
            runs.push(kind.run(session, &mut fastrand::Rng::with_seed(seed)));
        }
    }
    runs
}

impl AgentKind {
    fn run(&self, session: u32, rng: &mut fastrand::Rng) -> Run {
        let steps = match self.style {
            Style::Conversation => self.conversation(rng),
            Style::Commands => self.commands(rng),
        };
        Run {
            agent_id: self.agent_id.to_owned(),
            tenant_id: self.tenant_id.to_owned(),
            provider: self.provider.to_owned(),
            model: self.model.to_owned(),
            dataset: "synthetic".to_owned(),
            task_id: session.to_string(),
            steps,
            reward: Some(f64::from(u8::from(rng.u32(..100) < self.success_percent))),
        }
    }

    fn conversation(&self, rng: &mut fastrand::Rng) -> Vec<Step> {
        let person = Person::draw(rng);
        let mut steps = Vec::new();
        let mut input = format!("Hello, I need help with my booking {}.", code(rng));
        let mut knows_person = false;
        for turn in 0..draw(self.turns, rng) {
            let output = prose(draw(self.output_chars, rng), rng);
            // tau-bench: 1,164 tool calls in 2,454 model answers.
            let calls_tools = turn > 0 && rng.u32(..100) < 47;
            let said = std::mem::take(&mut input);
            if calls_tools {
                let tool = self.tool(&person, rng);
                steps.push(Step::Model { input: said, output: format!("call {output}"), calls_tools });
                if let Step::Tool { name, result, failed, .. } = &tool {
                    knows_person |= name == "get_user_details" && !failed;
                    // The result is the next input, as in the recorded runs: what a tool reveals goes through the
                    // model as well.
                    input.clone_from(result);
                }
                steps.push(tool);
            } else {
                // A name that a tool revealed comes back in free text: that is what the scanner must find without a
                // cue.
                let text = if knows_person { format!("Thank you, {}. {output}", person.first) } else { output };
                steps.push(Step::Model { input: said, output: text.clone(), calls_tools });
                steps.push(Step::Output { text });
                input = prose(draw([34, 63, 92, 130, 189], rng), rng);
            }
        }
        steps
    }

    fn commands(&self, rng: &mut fastrand::Rng) -> Vec<Step> {
        let mut steps = Vec::new();
        let mut input = prose(90, rng);
        for _ in 0..draw(self.turns, rng) {
            let output = prose(draw(self.output_chars, rng), rng);
            let result = prose(draw(self.result_chars, rng), rng);
            // A command's observation is the next turn's input (InterCode).
            let said = std::mem::replace(&mut input, result.clone());
            steps.push(Step::Model { input: said, output: output.clone(), calls_tools: true });
            let arguments = serde_json::json!({ "command": output }).to_string();
            let failed = rng.u32(..100) < self.failed_percent;
            steps.push(Step::Tool { name: self.tool_name(rng), arguments, result, failed });
        }
        steps.push(Step::Output { text: input });
        steps
    }

    fn tool(&self, person: &Person, rng: &mut fastrand::Rng) -> Step {
        let name = self.tool_name(rng);
        let failed = rng.u32(..100) < self.failed_percent;
        let result = match name.as_str() {
            // With the prefix by which tau-bench marks failures.
            _ if failed => "Error: the record was changed by someone else".to_owned(),
            "get_user_details" => person.profile(),
            "calculate" => format!("{}.{:02}", rng.u32(20..900), rng.u32(..100)),
            _ => serde_json::json!({ "id": code(rng), "status": "open", "note": prose(draw(self.result_chars, rng), rng) }).to_string(),
        };
        Step::Tool { name, arguments: serde_json::json!({ "user_id": person.user_id }).to_string(), result, failed }
    }

    fn tool_name(&self, rng: &mut fastrand::Rng) -> String {
        // One draw over the sum of the weights: frequencies are those of the recorded runs.
        let mut left = rng.u32(..self.tools.iter().map(|t| t.1).sum::<u32>());
        let chosen = self.tools.iter().find(|(_, weight)| {
            let found = left < *weight;
            left = left.saturating_sub(*weight);
            found
        });
        chosen.map_or_else(String::new, |(name, _)| (*name).to_owned())
    }
}

/// A customer who does not exist.
struct Person {
    first: &'static str,
    last: &'static str,
    user_id: String,
    email: String,
    dob: String,
    street: String,
}

impl Person {
    fn draw(rng: &mut fastrand::Rng) -> Self {
        const FIRST: &[&str] = &[
            "Amelia", "Bashir", "Chiara", "Dmitri", "Esther", "Farouk", "Greta", "Hiroshi", "Imogen", "Joaquin",
            "Katya", "Lorenzo",
        ];
        const LAST: &[&str] = &[
            "Abernathy",
            "Bergstrom",
            "Castellano",
            "Dragomir",
            "Eriksson",
            "Fitzgerald",
            "Grigoryan",
            "Hashimoto",
            "Ibrahimovic",
            "Jankowski",
        ];
        let (first, last) = (FIRST[rng.usize(..FIRST.len())], LAST[rng.usize(..LAST.len())]);
        let number = rng.u32(1_000..10_000);
        let lower = |text: &str| text.to_lowercase();
        Self {
            first,
            last,
            user_id: format!("user_{number}"),
            // A reserved domain (RFC 2606): no address belongs to anybody.
            email: format!("{}.{}{number}@example.com", lower(first), lower(last)),
            // Days up to 28: every month has them.
            dob: format!("{}-{:02}-{:02}", rng.u32(1950..2004), rng.u32(1..13), rng.u32(1..29)),
            street: format!("{} Harbour Street", rng.u32(100..999)),
        }
    }

    fn profile(&self) -> String {
        serde_json::json!({
            "user_id": self.user_id,
            "name": { "first_name": self.first, "last_name": self.last },
            "email": self.email,
            "dob": self.dob,
            "address": { "address1": self.street, "city": "Springfield", "zip": "62704", "country": "USA" },
        })
        .to_string()
    }
}

/// A value between the percentiles, by linear interpolation.
fn draw(percentiles: Percentiles, rng: &mut fastrand::Rng) -> u32 {
    const SHARES: [f64; 5] = [0.05, 0.25, 0.50, 0.75, 0.95];
    // Beyond the outer percentiles nothing was measured: the tails are cut, not invented.
    let share = rng.f64().clamp(SHARES[0], SHARES[4]);
    // At least 1: the first percentile has none below it to start from.
    let upper = SHARES.iter().position(|s| share <= *s).unwrap_or(4).max(1);
    let (low, high) = (f64::from(percentiles[upper - 1]), f64::from(percentiles[upper]));
    let within = (share - SHARES[upper - 1]) / (SHARES[upper] - SHARES[upper - 1]);
    (low + (high - low) * within).round() as u32
}

fn code(rng: &mut fastrand::Rng) -> String {
    // Without I, O, 0 and 1, so that no letter is read as a digit.
    (0..6).map(|_| char::from(b"ABCDEFGHJKLMNPQRSTUVWXYZ23456789"[rng.usize(..32)])).collect()
}

/// About `chars` characters of words without personal data.
fn prose(chars: u32, rng: &mut fastrand::Rng) -> String {
    const WORDS: &[&str] = &[
        "the", "request", "was", "checked", "against", "current", "rules", "and", "needs", "another", "look", "before",
        "it", "can", "be", "closed", "select", "count", "from", "orders", "where", "status", "is", "pending", "group",
        "by", "region", "list", "files", "under", "folder", "with", "size", "over", "limit", "total", "price", "after",
        "change", "policy", "allows", "refund", "within", "window", "please", "confirm", "details", "then", "proceed",
        "to", "next", "step", "result", "shows", "rows", "for", "each", "group", "sorted", "value",
    ];
    let mut text = String::new();
    // Bytes are characters here: the words are ASCII.
    while text.len() < chars as usize {
        if !text.is_empty() {
            text.push(' ');
        }
        text.push_str(WORDS[rng.usize(..WORDS.len())]);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_gives_one_fleet_and_another_seed_another() {
        assert_eq!(fleet(1), fleet(1));
        assert_ne!(fleet(1), fleet(2));
    }

    #[test]
    fn the_fleet_follows_its_figures() {
        let runs = fleet(7);
        let kinds: std::collections::BTreeSet<&str> = runs.iter().map(|r| r.agent_id.as_str()).collect();
        assert_eq!(kinds.len(), 12);
        let analyst: Vec<&Run> = runs.iter().filter(|r| r.agent_id == "sql-analyst").collect();
        let successes = analyst.iter().filter(|r| r.reward == Some(1.0)).count();
        assert!((35..=55).contains(&successes), "74 % of 60 sessions, give or take: {successes}");
    }
}
