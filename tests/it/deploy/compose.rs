//! `compose.yaml`, `.env` and the Dockerfile: one place for everything, and no service without bounds.

use std::collections::BTreeMap;

use regex::Regex;
use serde_yaml_ng::Value;

use super::{files, parsed, read};

/// Variables of `.env`.
fn variables() -> BTreeMap<String, String> {
    let text = read(".env");
    let lines = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines.map(|line| line.split_once('=').expect("NAME=value")).map(|(n, v)| (n.to_owned(), v.to_owned())).collect()
}

fn ending<'a>(variables: &'a BTreeMap<String, String>, suffix: &str) -> Vec<(&'a str, &'a str)> {
    let found = variables.iter().filter(|(name, _)| name.ends_with(suffix));
    let found: Vec<_> = found.map(|(name, value)| (name.as_str(), value.as_str())).collect();
    assert!(found.len() > 5, "only {} variables end with {suffix}", found.len());
    found
}

/// Files that Compose's world is made of; the chart is a world of its own.
fn compose_files() -> Vec<String> {
    let is_ours = |name: &String| {
        !["helm/", "kafka/"].iter().any(|folder| name.starts_with(folder))
            && !name.ends_with("-local.sh")
            && !name.ends_with(".md")
            && name != ".env"
            && !name.starts_with("Dockerfile")
    };
    files().into_iter().filter(is_ours).collect()
}

fn services() -> Vec<(String, Value)> {
    let compose = parsed("compose.yaml");
    let services = compose["services"].as_mapping().expect("services").iter();
    services.map(|(name, service)| (name.as_str().expect("name").to_owned(), service.clone())).collect()
}

fn list(value: &Value) -> Vec<String> {
    value.as_sequence().into_iter().flatten().filter_map(|item| item.as_str()).map(str::to_owned).collect()
}

#[test]
fn every_image_is_pinned_and_stated_once() {
    let variables = variables();
    for (name, image) in ending(&variables, "_IMAGE") {
        let (repository, tag) = image.split_once(':').unwrap_or_else(|| panic!("{name} has no tag"));
        if name == "CUSTODY_IMAGE" {
            continue;
        }
        assert!(tag.contains('.') && tag.chars().any(|c| c.is_ascii_digit()), "{name}={image} is not pinned");
        for file in compose_files() {
            assert!(!read(&file).contains(&format!("{repository}:")), "docker/{file} states {repository} again");
        }
    }
    for (name, service) in services() {
        let image = service["image"].as_str().unwrap_or_default().to_owned();
        let variable = image.trim_start_matches("${").trim_end_matches('}');
        assert!(variables.contains_key(variable), "{name} states its image itself: {image}");
    }
}

#[test]
fn every_port_is_stated_once_and_published_to_this_machine_only() {
    let variables = variables();
    let ports = ending(&variables, "_PORT");
    let distinct: std::collections::BTreeSet<_> = ports.iter().map(|(_, port)| port).collect();
    assert_eq!(distinct.len(), ports.len(), "two variables have one port: {ports:?}");
    for (name, port) in &ports {
        let number = Regex::new(&format!(r"\b{port}\b")).expect("pattern");
        for file in compose_files() {
            assert!(!number.is_match(&read(&file)), "docker/{file} states {port} again, which is {name}");
        }
    }
    let mut published = 0;
    for (name, service) in services() {
        for port in list(&service["ports"]) {
            assert!(port.starts_with("127.0.0.1:$"), "{name} publishes {port}");
            published += 1;
        }
    }
    assert!(published > 8, "only {published} ports are published");
}

#[test]
fn every_service_is_bounded_and_cannot_gain_rights() {
    for (name, service) in services() {
        assert!(service["mem_limit"].is_string(), "{name} has no mem_limit");
        assert_eq!(list(&service["cap_drop"]), ["ALL"], "{name}");
        assert_eq!(list(&service["security_opt"]), ["no-new-privileges:true"], "{name}");
        assert!(!list(&service["profiles"]).is_empty(), "{name} is in no profile");
        // Kafka's entry point writes its settings beside its programs.
        assert_eq!(service["read_only"].as_bool() == Some(true), name != "kafka", "{name}: read_only");
        let has_check = service.get("healthcheck").is_some();
        let is_job = service["restart"].as_str() == Some("no");
        let is_role = service["image"].as_str() == Some("${CUSTODY_IMAGE}");
        // Custody's image has its own; the collector's has nothing to check with.
        assert!(has_check || is_job || is_role || name == "collector", "{name} has no healthcheck");
    }
}

#[test]
fn whoever_waits_for_health_waits_for_somebody_who_has_it() {
    let services: BTreeMap<String, Value> = services().into_iter().collect();
    let mut waits = 0;
    for (name, service) in &services {
        for (other, how) in service["depends_on"].as_mapping().into_iter().flatten() {
            let other = other.as_str().expect("name");
            let target = services.get(other).unwrap_or_else(|| panic!("{name} waits for {other}, which is not there"));
            match how["condition"].as_str() {
                Some("service_healthy") => assert!(target.get("healthcheck").is_some(), "{name} waits for {other}"),
                Some("service_completed_successfully") => assert_eq!(target["restart"].as_str(), Some("no"), "{other}"),
                condition => panic!("{name} waits for {other} in no way: {condition:?}"),
            }
            let shared = list(&service["profiles"]).iter().all(|profile| list(&target["profiles"]).contains(profile));
            assert!(shared, "{name} may be started without {other}");
            waits += 1;
        }
    }
    assert!(waits > 10, "only {waits}");
}

#[test]
fn what_a_read_only_service_reads_comes_from_files() {
    // Compose writes other secrets and configurations into the container, which then is read-only.
    let compose = parsed("compose.yaml");
    for kind in ["configs", "secrets"] {
        for (name, source) in compose[kind].as_mapping().into_iter().flatten() {
            let file = source["file"].as_str().unwrap_or_else(|| panic!("{kind} {name:?} is not a file"));
            read(file);
        }
    }
}

#[test]
fn the_image_is_built_by_the_compiler_of_this_repository() {
    let toolchain: toml::Table = include_str!("../../../rust-toolchain.toml").parse().expect("toolchain");
    let channel = toolchain["toolchain"]["channel"].as_str().expect("channel").to_owned();
    let dockerfile = read("Dockerfile");
    assert!(dockerfile.contains(&format!("ARG RUST_IMAGE=rust:{channel}-")), "RUST_IMAGE is not {channel}");
    assert!(dockerfile.contains(&format!("RUSTUP_TOOLCHAIN={channel} ")), "RUSTUP_TOOLCHAIN is not {channel}");
    assert!(dockerfile.contains("\nUSER 65532:65532\n") && dockerfile.contains("\nHEALTHCHECK "));
}
