//! Every Rust file is a module that some target reaches; a file that nothing compiles is dead.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use crate::tidy::files::{Package, Workspace};
use crate::tidy::source::Source;

pub fn check(workspace: &Workspace, problems: &mut Vec<String>) {
    let reached = reach(&workspace.packages, &workspace.sources);
    for path in workspace.sources.keys() {
        if workspace.package_of(path).is_some() && !reached.contains_key(path) {
            problems.push(format!("{}: no module declares this file", path.display()));
        }
    }
}

/// Marks the files that only tests compile.
pub fn mark_test_files(packages: &[Package], sources: &mut BTreeMap<PathBuf, Source>) {
    let reached = reach(packages, sources);
    for (path, source) in sources.iter_mut() {
        let in_tests = path.iter().any(|part| part == "tests" || part == "benches");
        source.test_only = in_tests || reached.get(path) == Some(&Compiled::ForTests);
    }
}

#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
enum Compiled {
    ForTests,
    Always,
}

/// All files that the targets of `packages` reach, and whether only for tests.
fn reach(packages: &[Package], sources: &BTreeMap<PathBuf, Source>) -> BTreeMap<PathBuf, Compiled> {
    let mut reached: BTreeMap<PathBuf, Compiled> = BTreeMap::new();
    let mut waiting: Vec<(PathBuf, PathBuf, Compiled)> = Vec::new();
    for root in packages.iter().flat_map(|package| &package.roots) {
        let folder = root.parent().unwrap_or(Path::new("")).to_owned();
        waiting.push((root.clone(), folder, Compiled::Always));
    }
    let mut done = BTreeSet::new();
    while let Some((path, folder, compiled)) = waiting.pop() {
        let Some(source) = sources.get(&path) else { continue };
        if !done.insert((path.clone(), compiled)) {
            continue;
        }
        let best = reached.entry(path.clone()).or_insert(compiled);
        *best = compiled.max(*best);
        for module in declared(source) {
            let compiled = if module.for_tests { Compiled::ForTests } else { compiled };
            let inside = folder.join(&module.inline);
            let candidates = match &module.path {
                Some(given) => vec![path.parent().unwrap_or(Path::new("")).join(given)],
                None => {
                    vec![inside.join(format!("{}.rs", module.name)), inside.join(&module.name).join("mod.rs")]
                }
            };
            for candidate in candidates {
                if sources.contains_key(&candidate) {
                    waiting.push((candidate, inside.join(&module.name), compiled));
                }
            }
        }
    }
    reached
}

struct Declared {
    name: String,
    /// The inline modules around the declaration.
    inline: PathBuf,
    /// From `#[path = "..."]`.
    path: Option<String>,
    for_tests: bool,
}

/// The `mod NAME;` declarations of a file.
fn declared(source: &Source) -> Vec<Declared> {
    let tests = source.test_ranges();
    let mut found = Vec::new();
    let mut inline: Vec<(String, usize)> = Vec::new();
    for at in source.words("mod") {
        inline.retain(|(_, end)| *end > at);
        let rest = source.code[at + 3..].trim_start();
        let name: String =
            rest.chars().take_while(|letter| letter.is_alphanumeric() || *letter == '_').collect();
        let after = rest[name.len()..].trim_start();
        if name.is_empty() {
            continue;
        }
        if after.starts_with('{') {
            inline.push((name, source.item_end(at)));
        } else if after.starts_with(';') {
            found.push(Declared {
                inline: inline.iter().map(|(name, _)| name.as_str()).collect(),
                path: path_attribute(source, at),
                for_tests: tests.iter().any(|(start, end)| (*start..*end).contains(&at)),
                name,
            });
        }
    }
    found
}

/// The value of a `#[path]` attribute right before the declaration at `at`.
fn path_attribute(source: &Source, at: usize) -> Option<String> {
    let before = &source.uncommented[..at];
    let item = before.rfind([';', '}', '{']).map_or(0, |end| end + 1);
    let (_, value) = before[item..].split_once("#[path")?;
    Some(value.split('"').nth(1)?.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_reached_through_declarations() {
        let package = Package {
            name: "x".to_owned(),
            folder: PathBuf::from("x"),
            dependencies: Vec::new(),
            roots: vec![PathBuf::from("x/src/lib.rs")],
        };
        let sources: BTreeMap<PathBuf, Source> = [
            (
                "x/src/lib.rs",
                "mod a; mod b { mod c; }\n#[cfg(test)]\nmod tests;\n#[path = \"odd.rs\"]\nmod d; // mod e;",
            ),
            ("x/src/a.rs", "pub mod deep;"),
            ("x/src/a/deep.rs", ""),
            ("x/src/b/c.rs", ""),
            ("x/src/tests.rs", "mod more;"),
            ("x/src/tests/more.rs", ""),
            ("x/src/odd.rs", ""),
            ("x/src/e.rs", ""),
        ]
        .into_iter()
        .map(|(path, text)| (PathBuf::from(path), Source::new(text)))
        .collect();
        let reached = reach(&[package], &sources);
        let with = |compiled| -> Vec<&str> {
            reached
                .iter()
                .filter(|(_, how)| **how == compiled)
                .filter_map(|(path, _)| path.to_str())
                .collect()
        };
        assert_eq!(
            with(Compiled::Always),
            ["x/src/a/deep.rs", "x/src/a.rs", "x/src/b/c.rs", "x/src/lib.rs", "x/src/odd.rs"]
        );
        assert_eq!(with(Compiled::ForTests), ["x/src/tests/more.rs", "x/src/tests.rs"]);
    }
}
