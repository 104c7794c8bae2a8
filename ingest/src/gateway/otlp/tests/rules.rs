//! Single rules, each as a table: sessions, agents, outcomes, numbers, refusals.
