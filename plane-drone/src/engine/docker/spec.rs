//! From what a request asks for to what Docker is told. Pure.

use super::super::EngineError;
use crate::config::DockerConfig;
use bollard::{
    auth::DockerCredentials,
    models::{ContainerCreateBody, DeviceRequest, HostConfig, HostConfigLogConfig, Mount, ResourcesUlimits},
};
use plane_core::{
    id::{BackendId, ClusterName, DroneId},
    message::schedule::{Credentials, Executable},
};
use std::collections::HashMap;

/// The label that holds the backend's id.
pub(super) const BACKEND_LABEL: &str = "dev.plane.backend";
/// The quota's period where a request gives only a percentage, in µs.
const DEFAULT_CPU_PERIOD: u64 = 100_000;
/// The log that the engine keeps of a container: this many files of this size, then the oldest goes.
const LOG_FILES: &str = "2";
const LOG_FILE_SIZE: &str = "8m";

pub(super) fn container_name(backend: &BackendId) -> String {
    format!("plane-{backend}")
}

/// The labels of all containers of a drone.
pub(super) fn drone_labels(cluster: &ClusterName, drone: &DroneId) -> [(String, String); 3] {
    [
        ("dev.plane.managed".to_owned(), "true".to_owned()),
        ("dev.plane.cluster".to_owned(), cluster.to_string()),
        ("dev.plane.drone".to_owned(), drone.to_string()),
    ]
}

pub(super) fn labels(cluster: &ClusterName, drone: &DroneId, backend: &BackendId) -> HashMap<String, String> {
    let own = [(BACKEND_LABEL.to_owned(), backend.to_string())];
    drone_labels(cluster, drone).into_iter().chain(own).collect()
}

pub(super) fn credentials(credentials: &Credentials) -> DockerCredentials {
    match credentials.clone() {
        Credentials::UsernamePassword { username, password } => {
            DockerCredentials { username: Some(username), password: Some(password), ..Default::default() }
        }
        Credentials::IdentityToken { identity_token } => {
            DockerCredentials { identitytoken: Some(identity_token), ..Default::default() }
        }
    }
}

/// What the container is created from.
pub(super) fn body(
    config: &DockerConfig,
    cluster: &ClusterName,
    drone: &DroneId,
    backend: &BackendId,
    executable: &Executable,
) -> Result<ContainerCreateBody, EngineError> {
    let port = executable.port();
    let given = executable.env.iter().filter(|(name, _)| *name != "PORT");
    let env = given.map(|(name, value)| format!("{name}={value}")).chain([format!("PORT={port}")]);
    Ok(ContainerCreateBody {
        image: Some(executable.image.clone()),
        env: Some(env.collect()),
        labels: Some(labels(cluster, drone, backend)),
        exposed_ports: Some(vec![format!("{port}/tcp")]),
        host_config: Some(host_config(config, executable)?),
        ..Default::default()
    })
}

fn host_config(config: &DockerConfig, executable: &Executable) -> Result<HostConfig, EngineError> {
    let limits = &executable.resource_limits;
    let signed = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
    let period = limits.cpu_period.map(std::num::NonZero::get);
    let quota = limits
        .cpu_period_percent
        .map(|percent| period.unwrap_or(DEFAULT_CPU_PERIOD).saturating_mul(percent.get().into()) / 100);
    let ulimit = limits.cpu_time_limit.map(|secs| ResourcesUlimits {
        name: Some("cpu".to_owned()),
        soft: Some(signed(secs.get())),
        hard: Some(signed(secs.get())),
    });
    let (binds, mounts) = volumes(config, executable)?;
    let some = |list: Vec<_>| (!list.is_empty()).then_some(list);
    Ok(HostConfig {
        memory: limits.memory_limit_bytes.map(|bytes| signed(bytes.get())),
        cpu_period: period.or(quota.map(|_| DEFAULT_CPU_PERIOD)).map(signed),
        cpu_quota: quota.map(signed),
        ulimits: ulimit.map(|limit| vec![limit]),
        storage_opt: limits.disk_limit_bytes.map(|bytes| HashMap::from([("size".to_owned(), bytes.to_string())])),
        binds: some(binds),
        mounts: (!mounts.is_empty()).then_some(mounts),
        runtime: config.runtime.clone(),
        network_mode: config.network.clone(),
        device_requests: config.insecure_gpu.then(|| {
            vec![DeviceRequest {
                count: Some(-1),
                capabilities: Some(vec![vec!["gpu".to_owned()]]),
                ..Default::default()
            }]
        }),
        log_config: Some(log_config(config)),
        ..Default::default()
    })
}

fn log_config(config: &DockerConfig) -> HostConfigLogConfig {
    let (driver, options) = match &config.syslog {
        Some(address) => ("syslog", vec![("syslog-address", address.as_str())]),
        None => ("json-file", vec![("max-size", LOG_FILE_SIZE), ("max-file", LOG_FILES)]),
    };
    let options = options.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect();
    HostConfigLogConfig { typ: Some(driver.to_owned()), config: Some(options) }
}

/// Mounts are texts as `docker run --volume` takes them, or objects as the engine's API takes them.
fn volumes(config: &DockerConfig, executable: &Executable) -> Result<(Vec<String>, Vec<Mount>), EngineError> {
    let (mut binds, mut mounts) = (Vec::new(), Vec::new());
    if !executable.volume_mounts.is_empty() && !config.allow_volume_mounts {
        return Err(EngineError(
            "executable.volume_mounts: this drone does not allow any (agent.docker.allow_volume_mounts)".to_owned(),
        ));
    }
    for volume in &executable.volume_mounts {
        match volume {
            serde_json::Value::String(text) => binds.push(text.clone()),
            other => mounts.push(serde_json::from_value(other.clone()).map_err(|error| {
                EngineError(format!("executable.volume_mounts: expected \"/host/path:/container/path\": {error}"))
            })?),
        }
    }
    Ok((binds, mounts))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn made(config: &DockerConfig, executable: serde_json::Value) -> Result<serde_json::Value, EngineError> {
        let executable = serde_json::from_value(executable).unwrap();
        let (cluster, drone) = ("plane.test".parse().unwrap(), "d".parse().unwrap());
        let made = body(config, &cluster, &drone, &"b".parse().unwrap(), &executable)?;
        Ok(serde_json::to_value(made).unwrap())
    }

    #[test]
    fn every_field_reaches_docker() {
        let config = DockerConfig {
            runtime: Some("runsc".into()),
            network: Some("inner".into()),
            insecure_gpu: true,
            allow_volume_mounts: true,
            ..DockerConfig::default()
        };
        let made = made(
            &config,
            json!({
                "image": "i:1", "env": {"A": "b"}, "port": 81,
                "resource_limits": {"cpu_period": 50000, "cpu_period_percent": 30, "cpu_time_limit": 60,
                    "memory_limit_bytes": 104857600, "disk_limit_bytes": 7},
                "volume_mounts": ["/a:/b", {"Target": "/c", "Source": "/d", "Type": "bind"}],
            }),
        )
        .unwrap();
        let host = &made["HostConfig"];
        assert_eq!((&made["Image"], &made["Env"]), (&json!("i:1"), &json!(["A=b", "PORT=81"])));
        assert_eq!(made["Labels"]["dev.plane.backend"], "b");
        assert_eq!((&host["CpuPeriod"], &host["CpuQuota"]), (&json!(50000), &json!(15000)));
        assert_eq!(host["Ulimits"], json!([{"Name": "cpu", "Soft": 60, "Hard": 60}]));
        assert_eq!((&host["Memory"], &host["StorageOpt"]), (&json!(104857600), &json!({"size": "7"})));
        assert_eq!((&host["Runtime"], &host["NetworkMode"]), (&json!("runsc"), &json!("inner")));
        assert_eq!((&host["Binds"], &host["Mounts"][0]["Target"]), (&json!(["/a:/b"]), &json!("/c")));
        assert_eq!(host["DeviceRequests"][0]["Capabilities"], json!([["gpu"]]));
        assert_eq!(host["LogConfig"]["Type"], "json-file");
    }

    #[test]
    fn a_percentage_alone_has_the_default_period() {
        let executable = json!({"image": "i", "env": {}, "resource_limits": {"cpu_period_percent": 50}});
        let host = &made(&DockerConfig::default(), executable).unwrap()["HostConfig"];
        assert_eq!((&host["CpuPeriod"], &host["CpuQuota"]), (&json!(100_000), &json!(50_000)));
    }

    #[test]
    fn mounts_are_refused_unless_allowed_and_syslog_is_told() {
        let mounting = |mount| json!({"image": "i", "env": {}, "resource_limits": {}, "volume_mounts": [mount]});
        let refused = made(&DockerConfig::default(), mounting(json!("/a:/b"))).unwrap_err();
        assert!(refused.0.contains("allow_volume_mounts"), "{refused}");
        let config =
            DockerConfig { allow_volume_mounts: true, syslog: Some("udp://h:1".into()), ..DockerConfig::default() };
        assert!(made(&config, mounting(json!(7))).unwrap_err().0.contains("volume_mounts"));
        let log = made(&config, mounting(json!("/a:/b"))).unwrap()["HostConfig"]["LogConfig"].clone();
        assert_eq!(log, json!({"Type": "syslog", "Config": {"syslog-address": "udp://h:1"}}));
    }
}
