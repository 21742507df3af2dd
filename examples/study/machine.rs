//! What was measured on.

use std::fs;
use std::process::Command;

use serde_json::{Value, json};

/// The value of a line `KEY : VALUE` in a file of /proc.
fn line(file: &str, key: &str) -> Option<String> {
    let text = fs::read_to_string(file).ok()?;
    let line = text.lines().find(|line| line.starts_with(key))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

fn load() -> f64 {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split_whitespace().next().and_then(|word| word.parse().ok()).unwrap_or(0.0)
}

/// The machine as it is now. `peers` are the names of whom is measured beside plyfs, with their versions.
pub fn describe(peers: &[String]) -> Value {
    let date = Command::new("date").args(["-u", "+%Y-%m-%dT%H:%M:%SZ"]).output();
    let date = date.map(|out| String::from_utf8_lossy(&out.stdout).trim().to_owned()).unwrap_or_default();
    let memory = line("/proc/meminfo", "MemTotal").and_then(|text| text.split(' ').next()?.parse::<u64>().ok());
    let kernel = rustix::system::uname();
    json!({
        "date": date,
        "cpu": line("/proc/cpuinfo", "model name").unwrap_or_else(|| std::env::consts::ARCH.into()),
        "processors": std::thread::available_parallelism().map_or(1, usize::from),
        "memory_bytes": memory.unwrap_or(0) * 1024,
        "kernel": format!("{} {}", kernel.sysname().to_string_lossy(), kernel.release().to_string_lossy()),
        "root": rustix::process::geteuid().is_root(),
        "load_at_begin": load(),
        "plyfs": env!("CARGO_PKG_VERSION"),
        "peers": peers,
    })
}

/// The same in words.
pub fn in_words(machine: &Value) -> String {
    let text = |key: &str| machine[key].as_str().unwrap_or("?").to_owned();
    let memory = crate::units::size(machine["memory_bytes"].as_f64().unwrap_or(0.0));
    let who = if machine["root"].as_bool() == Some(true) { "root" } else { "a normal user" };
    let peers: Vec<_> = machine["peers"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    format!(
        "{}, {} processors ({}), {memory} of memory, {}, plyfs {}, beside {}; as {who}, load {} at the begin",
        text("date"),
        machine["processors"],
        text("cpu"),
        text("kernel"),
        text("plyfs"),
        if peers.is_empty() { "nobody".into() } else { peers.join(", ") },
        machine["load_at_begin"],
    )
}
