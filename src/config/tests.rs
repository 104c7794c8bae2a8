//! Tables over the configuration.
