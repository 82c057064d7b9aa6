//! Words that must not stand where they stand.

use std::path::Path;

use crate::tidy::files::Workspace;
use crate::tidy::source::Source;

/// The core knows no protocol.
const PROTOCOLS: [&str; 6] = ["kafka", "amqp", "rabbit", "mqtt", "sqs", "pulsar"];
const CORE: [&str; 4] = ["crates/model/src", "crates/storage/src", "crates/engine/src", "crates/broker/src"];

/// Macros that stand for something unfinished.
const MACROS: [&str; 3] = ["todo", "unimplemented", "dbg"];

pub fn check(workspace: &Workspace, problems: &mut Vec<String>) {
    // Written in pieces, or this file would break its own rules.
    let marker = ["FIX", "ME"].concat();
    let machine: Vec<String> =
        ["work", "tmp", "home", "root", "Users"].iter().map(|folder| format!("/{folder}/")).collect();
    for (path, source) in &workspace.sources {
        if CORE.iter().any(|folder| path.starts_with(folder)) {
            protocols(path, source, problems);
        }
        for name in MACROS {
            let called = |at: &usize| source.code[at + name.len()..].starts_with('!');
            for at in source.words(name).filter(called) {
                problems.push(format!(
                    "{}:{}: {name}! must not be committed",
                    path.display(),
                    source.line_of(at)
                ));
            }
        }
    }
    for (path, text) in &workspace.texts {
        for (number, line) in text.lines().enumerate() {
            let place = || format!("{}:{}", path.display(), number + 1);
            if line.contains(&marker) {
                problems.push(format!("{}: {marker} must not be committed", place()));
            }
            if let Some(found) = machine.iter().find(|folder| has_path(line, folder)) {
                problems.push(format!("{}: a path of one machine ({found})", place()));
            }
        }
        if path.file_name().is_some_and(|name| name == "package-lock.json") && text.contains("\"resolved\"") {
            problems.push(format!("{}: names a registry; strip the \"resolved\" fields", path.display()));
        }
    }
}

/// Protocol words outside comments, in whatever case.
fn protocols(path: &Path, source: &Source, problems: &mut Vec<String>) {
    for (number, line) in source.uncommented.lines().enumerate() {
        let lower = line.to_lowercase();
        if let Some(word) = PROTOCOLS.iter().find(|word| lower.contains(*word)) {
            problems.push(format!("{}:{}: the core must not know {word}", path.display(), number + 1));
        }
    }
}

/// True when `folder` begins an absolute path, not when it is a part of a longer one or of an address.
fn has_path(line: &str, folder: &str) -> bool {
    line.match_indices(folder).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        !before.is_some_and(|letter| letter.is_alphanumeric() || "._-}/".contains(letter))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn absolute_paths_are_told_from_others() {
        let folder = ["/t", "mp/"].concat();
        assert!(has_path(&format!("open(\"{folder}x\")"), &folder));
        assert!(!has_path(&format!("https://example.org{folder}x"), &folder));
        assert!(!has_path(&format!("${{dir}}{folder}x"), &folder));
    }

    #[test]
    fn protocol_words_are_found_outside_comments() {
        let mut problems = Vec::new();
        let source = Source::new("struct KafkaTopic; // kafka\nconst A: &str = \"mqtt\";");
        protocols(Path::new("x.rs"), &source, &mut problems);
        assert_eq!(problems, ["x.rs:1: the core must not know kafka", "x.rs:2: the core must not know mqtt"]);
    }
}
