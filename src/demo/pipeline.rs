//! Starts every role of the pipeline in this process and brings them to their end, upstream first.
//!
//! It knows the order in which roles depend on each other, and nothing of what they do.

use std::future::Future;

use tokio::task::JoinHandle;

use crate::runner::control::Control;

/// One running stage or sink.
#[derive(Debug)]
struct Started {
    name: &'static str,
    control: Control,
    task: JoinHandle<anyhow::Result<()>>,
}

/// Roles that are running, in waves: a wave ends when everything before it has ended.
#[derive(Debug, Default)]
pub(crate) struct Pipeline {
    waves: Vec<Vec<Started>>,
}

impl Pipeline {
    /// Begins the next wave.
    pub(crate) fn wave(&mut self) {
        self.waves.push(Vec::new());
    }

    /// Starts a role in the current wave.
    pub(crate) fn start<F>(&mut self, name: &'static str, role: impl FnOnce(Control) -> F)
    where
        F: Future<Output = anyhow::Result<()>> + Send + 'static,
    {
        let control = Control::default();
        let task = tokio::spawn(role(control.clone()));
        match self.waves.last_mut() {
            Some(wave) => wave.push(Started { name, control, task }),
            None => self.waves.push(vec![Started { name, control, task }]),
        }
    }

    /// The controls, so that progress can be shown while the pipeline is brought to its end.
    pub(crate) fn controls(&self) -> Vec<(&'static str, Control)> {
        self.waves.iter().flatten().map(|r| (r.name, r.control.clone())).collect()
    }

    /// Whether a role ended before it was asked to: it failed.
    pub(crate) fn has_failed(&self) -> bool {
        self.waves.iter().flatten().any(|r| r.task.is_finished())
    }

    /// Tells each wave that nothing more is coming and waits for it, first wave first.
    ///
    /// # Errors
    /// A role failed: every other one is stopped, and the first failure is returned with its name.
    pub(crate) async fn finish(self) -> anyhow::Result<()> {
        let controls = self.controls();
        for wave in self.waves {
            for role in &wave {
                role.control.upstream_done.raise();
            }
            for role in wave {
                let outcome = role.task.await.map_err(anyhow::Error::from).and_then(|r| r);
                if let Err(error) = outcome {
                    controls.iter().for_each(|(_, control)| control.stop.raise());
                    return Err(error.context(format!("role {} stopped", role.name)));
                }
            }
        }
        Ok(())
    }
}
