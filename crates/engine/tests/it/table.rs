//! Scenarios as text: `> command` lines, each followed by what comes of it. `BLESS=1 cargo test` writes what comes.

use std::{fmt::Write, path::Path};

/// Runs every scenario of a file; `run` gets the commands of one line and says what came of them.
pub fn check<S>(file: &str, start: impl Fn() -> S, run: impl Fn(&mut S, &str) -> String, end: impl Fn(S)) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scenarios").join(file);
    let text = std::fs::read_to_string(&path).unwrap();
    let mut actual = String::new();
    let mut state = None;
    for line in text.lines() {
        if line.starts_with("==") {
            state.take().into_iter().for_each(&end);
            state = Some(start());
        }
        if !line.starts_with("  ") {
            writeln!(actual, "{line}").unwrap();
        }
        if let Some(command) = line.strip_prefix("> ") {
            let state = state.as_mut().expect("a scenario begins with a title");
            for output in run(state, command).lines() {
                writeln!(actual, "  {output}").unwrap();
            }
        }
    }
    state.take().into_iter().for_each(&end);
    if std::env::var_os("BLESS").is_some() {
        std::fs::write(&path, actual).unwrap();
        return;
    }
    let mut title = "";
    for (number, (expect, actual)) in text.lines().zip(actual.lines()).enumerate() {
        title = if expect.starts_with("==") { expect } else { title };
        assert_eq!(actual, expect, "{file}:{} in {title}", number + 1);
    }
    assert_eq!(actual.lines().count(), text.lines().count(), "{file}");
}
