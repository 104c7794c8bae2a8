//! Arguments and configuration for `clickhouse server` with a data directory of its own. Text only, starts nothing.

use std::path::Path;

/// The whole configuration: loopback only, no native port, one user without password, as much memory as `memory_bytes_max`.
pub(crate) fn configuration(data: &Path, port: u16, memory_bytes_max: Option<u64>) -> String {
    let data = escape(&data.display().to_string());
    let memory = memory_bytes_max
        .map_or_else(String::new, |bytes| format!("  <max_server_memory_usage>{bytes}</max_server_memory_usage>\n"));
    format!(
        "<clickhouse>
  <logger><level>warning</level><console>1</console></logger>
  <listen_host>127.0.0.1</listen_host>
  <http_port>{port}</http_port>
  <path>{data}/</path>
  <tmp_path>{data}/tmp/</tmp_path>
  <user_files_path>{data}/user_files/</user_files_path>
  <format_schema_path>{data}/format_schemas/</format_schema_path>
  <mark_cache_size>268435456</mark_cache_size>
{memory}  <users><default>
    <password></password>
    <networks><ip>127.0.0.1</ip></networks>
    <profile>default</profile><quota>default</quota>
    <access_management>1</access_management>
  </default></users>
  <profiles><default>
    <async_insert>0</async_insert>
  </default></profiles>
  <quotas><default></default></quotas>
  <user_directories>
    <users_xml><path>{data}/config.xml</path></users_xml>
    <local_directory><path>{data}/access/</path></local_directory>
  </user_directories>
</clickhouse>
"
    )
}

/// Server settings for the engine as a library, which takes no profiles.
pub(crate) fn library_configuration(memory_bytes_max: u64) -> String {
    format!("<clickhouse><max_server_memory_usage>{memory_bytes_max}</max_server_memory_usage></clickhouse>\n")
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_server_listens_on_loopback_with_its_own_paths() {
        let text = configuration(Path::new("/d&x"), 18123, Some(1000));
        for part in [
            "<listen_host>127.0.0.1</listen_host>",
            "<http_port>18123</http_port>",
            "<path>/d&amp;x/</path>",
            "<max_server_memory_usage>1000</max_server_memory_usage>",
        ] {
            assert!(text.contains(part), "{part} is missing in {text}");
        }
        assert!(!text.contains("tcp_port"));
        assert!(!configuration(Path::new("/d"), 1, None).contains("max_server_memory_usage"));
    }
}
