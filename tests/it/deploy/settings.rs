//! Settings, roles, groups and topics that Compose and the chart name are those of the code.

use std::collections::BTreeMap;

use custody::config::{Config, ROLES, Role, RoleInfo};
use custody::operate::status::pipeline_readers;
use serde_json::Value;

use super::{parsed, texts};

/// Every setting with its default; one without a default is null, an open table is empty.
fn defaults() -> Value {
    serde_json::to_value(Config::default()).expect("configuration")
}

/// Whether there is such a setting.
fn is_known(path: &[&str]) -> bool {
    let defaults = defaults();
    let mut place = &defaults;
    for name in path {
        match place.as_object() {
            // Names of others: receivers, tenants, librdkafka.
            Some(fields) if fields.is_empty() => return true,
            Some(fields) => match fields.get(*name) {
                Some(inner) => place = inner,
                None => return false,
            },
            None => return false,
        }
    }
    !place.is_object() || path.len() > 1
}

#[test]
fn the_check_of_settings_sees_what_is_wrong() {
    let check = |path: &[&str], expected: bool| assert_eq!(is_known(path), expected, "{path:?}");
    check(&["data_dir"], true);
    check(&["log", "url"], true);
    check(&["store", "ca_file"], true);
    check(&["alert", "receivers", "ops", "url"], true);
    check(&["log", "ulr"], false);
    check(&["log", "url", "x"], false);
    check(&["lgo"], false);
}

#[test]
fn compose_sets_settings_that_exist() {
    let compose = parsed("compose.yaml");
    let mut names = BTreeMap::new();
    for (service, definition) in compose["services"].as_mapping().expect("services") {
        for (name, _) in definition["environment"].as_mapping().into_iter().flatten() {
            let name = name.as_str().expect("name");
            if name.starts_with("CUSTODY_") && name.contains("__") {
                names.insert(name.to_owned(), service.as_str().unwrap_or_default().to_owned());
            }
        }
    }
    assert!(names.len() > 10, "only {names:?}");
    for (name, service) in names {
        let path = name.trim_start_matches("CUSTODY_").trim_start_matches('_').to_ascii_lowercase();
        let path: Vec<&str> = path.split("__").collect();
        assert!(is_known(&path), "{service} sets {name}, which is no setting");
    }
}

/// Every path to a leaf of a YAML mapping.
fn leaves(prefix: &[String], value: &serde_yaml_ng::Value, found: &mut Vec<Vec<String>>) {
    match value.as_mapping() {
        Some(fields) => fields.iter().for_each(|(name, inner)| {
            let path = [prefix, &[name.as_str().expect("name").to_owned()]].concat();
            leaves(&path, inner, found);
        }),
        None => found.push(prefix.to_vec()),
    }
}

#[test]
fn the_chart_sets_settings_that_exist() {
    let mut paths = Vec::new();
    leaves(&[], &parsed("helm/custody/values.yaml")["config"], &mut paths);
    assert!(paths.len() > 5, "only {paths:?}");
    // What the chart's own template adds.
    let added = ["pii.keys_file", "clickhouse.password_file", "gateway.http_listen", "gateway.grpc_listen"];
    let added = added.into_iter().chain(["gateway.api_keys_file", "telemetry.listen", "telemetry.log_format"]);
    paths.extend(added.map(|path| path.split('.').map(str::to_owned).collect()));
    for path in paths {
        let path: Vec<&str> = path.iter().map(String::as_str).collect();
        assert!(is_known(&path), "the chart sets {path:?}, which is no setting");
    }
}

#[test]
fn compose_and_chart_run_the_same_roles() {
    let compose = parsed("compose.yaml");
    let chart = parsed("helm/custody/values.yaml");
    let deployed: Vec<&RoleInfo> = ROLES.iter().filter(|info| info.role != Role::Up).collect();
    assert_eq!(chart["roles"].as_mapping().expect("roles").len(), deployed.len());
    for RoleInfo { role, name, .. } in deployed {
        let words = serde_yaml_ng::to_value(role.command().split(' ').collect::<Vec<_>>()).expect("words");
        assert_eq!(compose["services"][*name]["command"], words, "{name} in compose.yaml");
        assert_eq!(chart["roles"][*name]["command"], words, "{name} in values.yaml");
    }
    assert_eq!(chart["image"]["tag"].as_str(), Some(""), "the tag is the chart's appVersion");
    let version = parsed("helm/custody/Chart.yaml");
    assert_eq!(texts(&version, "appVersion"), [env!("CARGO_PKG_VERSION")]);
}

#[test]
fn what_is_scaled_by_its_lag_has_that_group_on_that_topic() {
    let chart = parsed("helm/custody/values.yaml");
    let readers = pipeline_readers();
    let places: Vec<(String, String)> =
        readers.iter().map(|r| (r.group.to_string(), r.topic.name().to_owned())).collect();
    let mut scaled = 0;
    for (name, role) in chart["roles"].as_mapping().expect("roles") {
        let (Some(group), Some(topic)) = (role["scale"]["group"].as_str(), role["scale"]["topic"].as_str()) else {
            continue;
        };
        assert!(places.contains(&(group.to_owned(), topic.to_owned())), "{name:?}: {group} does not read {topic}");
        scaled += 1;
    }
    assert_eq!(scaled, 5);
}
