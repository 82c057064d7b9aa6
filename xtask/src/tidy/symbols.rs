//! What the architecture page names must exist: symbols as `crate::Name`, and paths of the repository.

use std::path::Path;

use crate::tidy::files::{Package, Workspace};

const PAGE: &str = "ARCHITECTURE.md";

/// Keywords that introduce a name.
const KEYWORDS: [&str; 9] =
    ["struct", "enum", "trait", "fn", "mod", "type", "const", "static", "macro_rules!"];

pub fn check(workspace: &Workspace, problems: &mut Vec<String>) {
    let Some(page) = workspace.texts.get(Path::new(PAGE)) else { return };
    for (number, line) in page.lines().enumerate() {
        for quoted in line.split('`').skip(1).step_by(2) {
            if let Some(problem) = problem(workspace, quoted) {
                problems.push(format!("{PAGE}:{}: {problem}", number + 1));
            }
        }
    }
}

fn problem(workspace: &Workspace, quoted: &str) -> Option<String> {
    if let Some((first, _)) = quoted.split_once("::") {
        let package = workspace.packages.iter().find(|package| called(package, first))?;
        let name = quoted.rsplit("::").next().unwrap_or_default();
        let name: String =
            name.chars().take_while(|letter| letter.is_alphanumeric() || *letter == '_').collect();
        return (!name.is_empty() && !defines(workspace, package, &name))
            .then(|| format!("{quoted} does not exist"));
    }
    let is_path = quoted.starts_with("crates/") && !quoted.contains(['*', '<', '{', ' ']);
    (is_path && !workspace.root.join(quoted).exists()).then(|| format!("{quoted} does not exist"))
}

/// `engine`, `posthaste_engine` or `posthaste-engine`.
fn called(package: &Package, name: &str) -> bool {
    let short = package.name.strip_prefix("posthaste-").unwrap_or(&package.name);
    name == short || name.replace('_', "-") == package.name
}

fn defines(workspace: &Workspace, package: &Package, name: &str) -> bool {
    workspace.sources.iter().any(|(path, source)| {
        path.starts_with(&package.folder)
            && source.words(name).any(|at| {
                let before = source.code[..at].trim_end();
                KEYWORDS.iter().any(|keyword| before.ends_with(keyword))
                    || is_member(&source.code, at + name.len(), before)
            })
    })
}

/// A variant of an enum stands at the beginning of its line.
fn is_member(code: &str, end: usize, before: &str) -> bool {
    before.ends_with(['{', ',', ']', '}']) && code[end..].trim_start().starts_with(['(', ',', '{', '}'])
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::path::PathBuf;

    use super::*;
    use crate::tidy::source::Source;

    #[test]
    fn symbols_of_the_workspace_must_exist() {
        let package = Package {
            name: "posthaste-engine".to_owned(),
            folder: PathBuf::from("crates/engine"),
            dependencies: Vec::new(),
            roots: Vec::new(),
        };
        let text = "pub struct Shard; impl Shard { pub fn decide() {} } enum Event { Added(u8), Gone }";
        let sources = BTreeMap::from([(PathBuf::from("crates/engine/src/lib.rs"), Source::new(text))]);
        let workspace =
            Workspace { root: PathBuf::new(), packages: vec![package], sources, texts: BTreeMap::new() };
        for known in
            ["engine::Shard", "posthaste_engine::Shard::decide()", "engine::Event::Gone", "tokio::spawn", "x"]
        {
            assert_eq!(problem(&workspace, known), None, "{known}");
        }
        assert_eq!(problem(&workspace, "engine::Shards").as_deref(), Some("engine::Shards does not exist"));
        assert!(problem(&workspace, "crates/no-such-crate").is_some());
    }
}
