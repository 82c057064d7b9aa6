//! Layers by crate dependencies: a crate knows only what lies below it.

use std::path::Path;

use crate::tidy::files::Workspace;

/// Crates from the bottom up. A crate may depend on crates of lower layers only, so adapters do not know each other.
const LAYERS: [&[&str]; 8] = [
    &["posthaste-model"],
    &["posthaste-storage"],
    &["posthaste-engine"],
    &["posthaste-broker", "posthaste-net"],
    &[
        "posthaste-amqp",
        "posthaste-http",
        "posthaste-kafka",
        "posthaste-mqtt",
        "posthaste-pulsar",
        "posthaste-sqs",
    ],
    &["posthaste"],
    &["posthaste-bench", "posthaste-profile", "posthaste-sim", "xtask"],
    // Its fuzz runner drives the sessions of the simulation.
    &["posthaste-conformance"],
];

/// The engine decides; it neither reads nor writes. So it does not even know the storage below it.
const FORBIDDEN: [(&str, &str); 8] = [
    ("posthaste-engine", "posthaste-storage"),
    ("posthaste-net", "posthaste-storage"),
    ("posthaste-net", "posthaste-engine"),
    ("posthaste-model", "tokio"),
    ("posthaste-engine", "tokio"),
    ("posthaste-model", "rand"),
    ("posthaste-engine", "rand"),
    ("posthaste-engine", "rustix"),
];

/// What a codec may not name: it is a function from bytes to values.
const CODEC_FORBIDDEN: [&str; 6] =
    ["tokio", "posthaste_broker", "posthaste_engine", "posthaste_net", "posthaste_storage", "std::net"];

pub fn check(workspace: &Workspace, problems: &mut Vec<String>) {
    for package in &workspace.packages {
        let Some(layer) = layer_of(&package.name) else {
            problems.push(format!("{} has no layer: add it to xtask/src/tidy/layers.rs", package.name));
            continue;
        };
        for dependency in &package.dependencies {
            let forbidden = FORBIDDEN.contains(&(package.name.as_str(), dependency.as_str()));
            let above = layer_of(dependency).is_some_and(|other| other >= layer);
            if forbidden || above {
                problems.push(format!("{}: must not depend on {dependency}", package.name));
            }
        }
        let folder = package.folder.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let expected = package.name.strip_prefix("posthaste-").unwrap_or(&package.name);
        if folder != expected {
            problems.push(format!("{}: its directory must be called {expected}, not {folder}", package.name));
        }
    }
    for (path, source) in &workspace.sources {
        let (what, words): (&str, &[&str]) = match path {
            _ if source.test_only => continue,
            path if is_codec(path) => ("a codec", &CODEC_FORBIDDEN),
            path if is_storage_but_objects(path) => {
                ("storage outside of `object`", &["tokio", "object_store"])
            }
            _ => continue,
        };
        let tests = source.test_ranges();
        for word in words {
            let shipped = |at: &usize| !tests.iter().any(|(start, end)| (*start..*end).contains(at));
            for at in source.words(word).filter(shipped) {
                let line = source.line_of(at);
                problems.push(format!("{}:{line}: {what} must not name {word}", path.display()));
            }
        }
    }
}

fn layer_of(name: &str) -> Option<usize> {
    LAYERS.iter().position(|layer| layer.contains(&name))
}

/// `crates/PROTOCOL/src/wire/` and `crates/PROTOCOL/src/wire.rs`.
fn is_codec(path: &Path) -> bool {
    let parts: Vec<&str> = path.iter().filter_map(|part| part.to_str()).collect();
    matches!(parts.as_slice(), ["crates", _, "src", "wire" | "wire.rs", ..])
}

/// Storage is synchronous: only what talks to a bucket has a runtime, of its own.
fn is_storage_but_objects(path: &Path) -> bool {
    let parts: Vec<&str> = path.iter().filter_map(|part| part.to_str()).collect();
    match parts.as_slice() {
        ["crates", "storage", "src", first, ..] => !matches!(*first, "object" | "object.rs"),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codecs_are_known_by_their_place() {
        assert!(is_codec(Path::new("crates/kafka/src/wire/frame.rs")));
        assert!(is_codec(Path::new("crates/amqp/src/wire.rs")));
        assert!(!is_codec(Path::new("crates/kafka/src/session/wire.rs")));
    }
}
