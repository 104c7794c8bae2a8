//! The `custody` binary.

fn main() {
    custody::embedded::run_if_child();
}
