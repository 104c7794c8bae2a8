//! x
pub fn run<T>(_: &T) -> anyhow::Result<std::process::ExitCode> {
    anyhow::bail!("x")
}
