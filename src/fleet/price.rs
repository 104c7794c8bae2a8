//! Who serves a model and what it costs, for runs whose source names only the model.
//!
//! List prices of the providers in US dollars per million tokens when the runs were recorded
//! (2023-2024); they make cost figures plausible, not exact.

/// A model's provider and price.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Model {
    /// Token of the model's name.
    pub name: &'static str,
    /// `gen_ai.provider.name`.
    pub provider: &'static str,
    /// Dollars per million input tokens, which is also millionths of a dollar per token.
    pub input_price: f64,
    /// Dollars per million output tokens.
    pub output_price: f64,
}

const fn model(name: &'static str, provider: &'static str, input_price: f64, output_price: f64) -> Model {
    Model { name, provider, input_price, output_price }
}

/// Longer names first, so that `gpt-4o-mini` is not read as `gpt-4`.
const MODELS: &[Model] = &[
    model("gpt-4o-mini", "openai", 0.15, 0.60),
    model("gpt-4o", "openai", 2.50, 10.0),
    model("gpt-4", "openai", 30.0, 60.0),
    model("gpt-3.5", "openai", 0.50, 1.50),
    model("text-davinci-003", "openai", 20.0, 20.0),
    model("claude", "anthropic", 3.0, 15.0),
    model("gemini", "gcp.gemini", 1.25, 5.0),
    model("text-bison-001", "gcp.vertex_ai", 0.50, 0.50),
    model("llama", "self_hosted", 0.20, 0.20),
    model("vicuna", "self_hosted", 0.20, 0.20),
];

/// The model that a file or model name mentions first.
pub fn find(text: &str) -> Option<Model> {
    let mentions = MODELS.iter().filter_map(|m| Some((text.find(m.name)?, *m)));
    // The first mention is the model itself; at one place, the longest name.
    mentions.min_by_key(|(at, m)| (*at, usize::MAX - m.name.len())).map(|(_, m)| m)
}

/// Cost of a call in millionths of a dollar; an unknown model costs a dollar per million tokens.
pub fn cost_micros(model_name: &str, input_tokens: i64, output_tokens: i64) -> i64 {
    let (input, output) = find(model_name).map_or((1.0, 1.0), |m| (m.input_price, m.output_price));
    (input_tokens as f64 * input + output_tokens as f64 * output).round() as i64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_and_longest_mention_wins() {
        let check = |text, expected| assert_eq!(find(text).map(|m| m.name), expected, "{text}");
        check("gpt-4o-airline", Some("gpt-4o"));
        check("python__gpt-3.5__ic_python_multiturn_gpt-4_7_turns", Some("gpt-3.5"));
        check("ctf__ic_ctf_multiturn_gpt-4_10_turns", Some("gpt-4"));
        check("notes", None);
    }

    #[test]
    fn cost_is_in_millionths_of_a_dollar() {
        assert_eq!(cost_micros("gpt-4", 1_000, 100), 36_000);
        assert_eq!(cost_micros("unheard-of", 1_000, 0), 1_000);
    }
}
