//! `serve`: where settings come from, what is announced, what is refused.

use crate::support::{Broker, finished, program, refused};
use std::{fs, path::Path};

const ONLY_HTTP: [&str; 6] = ["--listen", "kafka=off", "--listen", "amqp=off", "--listen", "mqtt=off"];

fn write(folder: &Path, name: &str, text: &str) -> String {
    let path = folder.join(name);
    fs::write(&path, text).unwrap();
    path.to_str().unwrap().to_owned()
}

#[test]
fn flags_override_variables_override_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let text = "[listen]\nkafka = '127.0.0.1:0'\namqp = '127.0.0.1:0'\nmqtt = '127.0.0.1:0'\nhttp = '127.0.0.1:0'\n\
                [advertise]\namqp = 'file.example:1'\nmqtt = 'file.example:2'\n";
    let file = write(folder.path(), "posthaste.toml", text);
    let broker = Broker::start_with(
        &["--config", &file, "--listen", "mqtt=127.0.0.1:0", "--advertise", "mqtt=flag.example:3"],
        &[("POSTHASTE_LISTEN", "kafka=off,mqtt=off")],
    );
    // The flag is the only one asked when it is there; the variable says nothing then.
    let names: Vec<&str> = broker.addresses.keys().map(String::as_str).collect();
    assert_eq!(names, ["amqp", "http", "kafka", "mqtt"]);
    let status: serde_json::Value = serde_json::from_str(&broker.run(&["status", "--json"])).unwrap();
    let told = |protocol: &str| status["listeners"][protocol].as_str().unwrap().to_owned();
    assert_eq!((told("amqp"), told("mqtt")), ("file.example:1".into(), "flag.example:3".into()));
    assert_eq!(told("kafka"), broker.addresses["kafka"]);
    drop(broker);
    let broker = Broker::start_with(&["--config", &file], &[("POSTHASTE_LISTEN", "kafka=off,mqtt=off")]);
    let names: Vec<&str> = broker.addresses.keys().map(String::as_str).collect();
    assert_eq!(names, ["amqp", "http"]);
}

#[test]
fn it_stops_when_asked_and_keeps_what_it_has() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let arguments = ["--listen", "http=127.0.0.1:0", "--data", data.to_str().unwrap()];
    let arguments = [&ONLY_HTTP[..], &arguments].concat();
    let mut command = program(&["serve"]);
    command.args(&arguments);
    let broker = Broker::spawn(command);
    broker.run(&["topic", "create", "orders"]);
    assert!(broker.stop());
    let mut command = program(&[]);
    command.args(&arguments);
    let broker = Broker::spawn(command);
    assert!(broker.run(&["topic", "list"]).contains("orders"));
    assert!(broker.stop());
}

#[test]
fn users_of_the_file_are_there() {
    let folder = tempfile::tempdir().unwrap();
    let secret = write(folder.path(), "secret", "from a file\n");
    let text = format!(
        "[users.ann]\npassword = 'first'\nadministrator = true\n\
         [users.bob]\npassword_file = '{secret}'\nallow = ['read:topic:*']\n"
    );
    let file = write(folder.path(), "posthaste.toml", &text);
    let arguments = [&ONLY_HTTP[..], &["--listen", "http=127.0.0.1:0", "--config", &file]].concat();
    let broker = Broker::start_with(&arguments, &[]);
    broker.run(&["topic", "create", "orders", "--user", "ann", "--password", "first"]);
    let as_bob = ["--user", "bob", "--password", "from a file"];
    assert!(broker.run(&[&["topic", "list"][..], &as_bob].concat()).contains("orders"));
    assert_eq!(broker.refused(&[&["topic", "create", "more"][..], &as_bob].concat()).0, 1);
}

#[test]
fn what_must_not_start() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let data = data.to_str().unwrap();
    let plain = write(folder.path(), "plain.toml", "allow_plaintext = true\n");
    let typo =
        write(folder.path(), "typo.toml", "[listen]\nhttp = '127.0.0.1:0'\n[limits]\nconnection_max = 1\n");
    let nobody = write(folder.path(), "nobody.toml", "[users.ann]\nadministrator = true\n");
    let no_pem = write(folder.path(), "no.pem", "holiday\n");
    let tls =
        write(folder.path(), "tls.toml", &format!("[tls]\ncertificate = '{no_pem}'\nkey = '{no_pem}'\n"));
    let word = format!("[tls]\ncertificate = '{no_pem}'\nkey = '{no_pem}'\nprotocols = ['kafka', 'ammqp']\n");
    let word = write(folder.path(), "word.toml", &word);
    let open = ["--listen", "http=0.0.0.0:0"];
    let local = ["--listen", "http=127.0.0.1:0"];
    for (listen, more, code, names) in [
        (open, &[][..], 1, &["0.0.0.0:", "--allow-plaintext", "[tls]"][..]),
        (open, &["--allow-plaintext"], 1, &["no user", "[users]"]),
        (open, &["--config", plain.as_str()], 1, &["no user", "[users]"]),
        (local, &["--config", typo.as_str()], 1, &["typo.toml", "connection_max", "connections_max"]),
        (local, &["--config", nobody.as_str()], 1, &["user ann", "password"]),
        (local, &["--config", tls.as_str()], 1, &["certificate"]),
        (
            local,
            &["--config", word.as_str()],
            1,
            &["word.toml", "[tls]", "protocols", "'ammqp'", "kafka, amqp, mqtt, http"],
        ),
        (local, &["--log", "=="], 1, &["--log"]),
        (local, &["--listen", "telegraph=127.0.0.1:0"], 1, &["telegraph", "kafka, amqp, mqtt, http"]),
        (local, &["--no-such-flag"], 2, &["--no-such-flag"]),
    ] {
        let mut command = program(&["serve", "--data", data]);
        command.args(ONLY_HTTP).args(listen).args(more);
        let (found, text) = refused(command);
        assert!(
            found == code && names.iter().all(|name| text.contains(name)),
            "{listen:?} {more:?}: {found} {text}"
        );
    }
}

#[test]
fn other_machines_are_served_when_somebody_said_so() {
    let folder = tempfile::tempdir().unwrap();
    let file =
        write(folder.path(), "posthaste.toml", "[users.ann]\npassword = 'secret'\nadministrator = true\n");
    let arguments =
        [&ONLY_HTTP[..], &["--listen", "http=0.0.0.0:0", "--allow-plaintext", "--config", &file]].concat();
    let broker = Broker::start_with(&arguments, &[]);
    assert!(broker.addresses["http"].starts_with("0.0.0.0:"));
}

#[test]
fn completions_for_every_shell() {
    for shell in ["bash", "zsh", "fish"] {
        let output = finished(program(&["completions", shell]));
        let script = String::from_utf8(output.stdout).unwrap();
        assert!(
            output.status.success() && script.contains("posthaste") && script.contains("partitions"),
            "{shell}"
        );
    }
}
