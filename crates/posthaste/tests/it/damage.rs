//! `posthaste check` and `posthaste repair` on the directory of a real broker.

use crate::support::*;
use serde_json::Value;
use std::{
    io::Read,
    path::{Path, PathBuf},
};

/// A directory in which ten messages wait, and where the fifth one lies.
fn directory() -> (tempfile::TempDir, PathBuf, PathBuf, usize) {
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path().join("data");
    let mut command = program(&["serve", "--log", "error"]);
    command.arg("--data").arg(&data);
    for listen in ["kafka=off", "amqp=off", "mqtt=off", "http=127.0.0.1:0"] {
        command.args(["--listen", listen]);
    }
    let broker = Broker::spawn(command);
    broker.run(&["queue", "create", "orders"]);
    let lines: String = (0..10).map(|number| format!("message number {number} of the queue\n")).collect();
    broker.feed(&["pub", "--queue", "orders", "--lines"], lines.as_bytes());
    assert!(broker.stop());
    let wanted = b"message number 5 of the queue";
    let found = std::fs::read_dir(data.join("journal")).unwrap().find_map(|entry| {
        let path = entry.unwrap().path();
        // What follows was never written to.
        let (mut start, file) = (Vec::new(), std::fs::File::open(&path).unwrap());
        file.take(64 << 10).read_to_end(&mut start).unwrap();
        let at = start.windows(wanted.len()).position(|window| window == wanted)?;
        Some((path, at))
    });
    let (path, at) = found.unwrap();
    (directory, data, path, at)
}

fn run(command: &str, data: &Path, arguments: &[&str]) -> (i32, String, String) {
    let mut command = program(&[command]);
    command.arg("--data").arg(data).args(arguments);
    let output = finished(command);
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code().unwrap(), text(&output.stdout), text(&output.stderr))
}

#[test]
fn damage_is_explained_set_aside_when_asked_and_gone() {
    let (_directory, data, file, at) = directory();
    let (code, text, _) = run("check", &data, &[]);
    assert!(code == 0 && text.contains("nothing is damaged"), "{text}");

    let mut bytes = std::fs::read(&file).unwrap();
    bytes[at] ^= 4;
    std::fs::write(&file, &bytes).unwrap();
    let (code, text, _) = run("check", &data, &[]);
    assert!(code == 1 && text.contains("queue default/orders/0, offsets 5 to 5, up to 1 messages"), "{text}");
    let (code, text, _) = run("check", &data, &["--json"]);
    let found: Value = serde_json::from_str(&text).unwrap();
    assert_eq!((code, found["damage"].as_array().unwrap().len()), (1, 2), "{text}");
    let (code, _, told) = run("repair", &data, &[]);
    assert!(code == 1 && told.contains("--yes"), "{told}");
    assert_eq!(std::fs::read(&file).unwrap(), bytes, "nothing is touched without being asked");

    let (code, text, told) = run("repair", &data, &["--yes", "--json"]);
    let repaired: Value = serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}: {text} {told}"));
    assert_eq!((code, &repaired["after"]["damage"]), (0, &Value::Array(Vec::new())));
    let quarantine = data.join(repaired["quarantine"].as_str().unwrap());
    assert!(quarantine.join("report.json").is_file());
    let kept: Vec<_> = std::fs::read_dir(&quarantine).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert!(kept.iter().any(|path| std::fs::read(path).unwrap().starts_with(&bytes[..at + 20])), "{kept:?}");
    assert_eq!(run("check", &data, &[]).0, 0);
    let (code, text, _) = run("repair", &data, &["--yes"]);
    assert!(code == 0 && text.contains("nothing is damaged"), "{text}");
}

#[test]
fn a_damaged_directory_is_served_and_told_about() {
    let (_directory, data, file, at) = directory();
    let mut bytes = std::fs::read(&file).unwrap();
    bytes[at] ^= 4;
    std::fs::write(&file, &bytes).unwrap();
    let mut command = program(&["serve", "--log", "off"]);
    command.arg("--data").arg(&data);
    for listen in ["kafka=off", "amqp=off", "mqtt=off", "http=127.0.0.1:0"] {
        command.args(["--listen", listen]);
    }
    let broker = Broker::spawn(command);
    let status = broker.run(&["status"]);
    assert!(status.contains("damage.lost_messages") && status.contains("queue default/orders/0"), "{status}");
    let status: Value = serde_json::from_str(&broker.run(&["status", "--json"])).unwrap();
    assert_eq!((&status["damage"]["lost_messages"], &status["damage"]["stretches"]), (&1.into(), &2.into()));
    let (code, _, told) = run("check", &data, &[]);
    assert!(code == 2 && told.contains("in use"), "{told}");
}

#[test]
fn what_is_no_data_directory_is_left_alone() {
    let directory = tempfile::tempdir().unwrap();
    for command in ["check", "repair"] {
        let (code, _, told) = run(command, &directory.path().join("absent"), &[]);
        assert!(code == 2 && !directory.path().join("absent").exists(), "{told}");
        let (code, _, told) = run(command, directory.path(), &[]);
        assert!(code == 2 && told.contains("no data directory"), "{told}");
    }
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
}
