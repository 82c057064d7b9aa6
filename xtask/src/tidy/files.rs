//! What tidy looks at: the packages of the workspace and the files that git knows or would add.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::Value;

use crate::steps::{cargo_binary, output};
use crate::tidy::modules;
use crate::tidy::source::Source;

/// One package of the workspace.
pub struct Package {
    pub name: String,
    /// Relative to the root.
    pub folder: PathBuf,
    /// Names of its dependencies that ship: normal and build, not development.
    pub dependencies: Vec<String>,
    /// The files at which its targets begin, relative to the root.
    pub roots: Vec<PathBuf>,
}

/// Everything that the checks need, read once.
pub struct Workspace {
    pub root: PathBuf,
    pub packages: Vec<Package>,
    /// Rust files by their path relative to the root.
    pub sources: BTreeMap<PathBuf, Source>,
    /// All text files, Rust or not.
    pub texts: BTreeMap<PathBuf, String>,
}

impl Workspace {
    pub fn read(root: &Path) -> Result<Self> {
        let packages = packages(root)?;
        let listed = output("git", &["ls-files", "--cached", "--others", "--exclude-standard"])?;
        let mut texts = BTreeMap::new();
        for path in listed.lines().map(PathBuf::from) {
            // Binary files, and files that were deleted but not yet committed, are no text.
            if let Ok(text) = fs::read_to_string(root.join(&path)) {
                texts.insert(path, text);
            }
        }
        let mut sources: BTreeMap<PathBuf, Source> = texts
            .iter()
            .filter(|(path, _)| path.extension().is_some_and(|extension| extension == "rs"))
            .map(|(path, text)| (path.clone(), Source::new(text)))
            .collect();
        modules::mark_test_files(&packages, &mut sources);
        Ok(Self { root: root.to_owned(), packages, sources, texts })
    }

    /// The package that a file belongs to.
    pub fn package_of(&self, path: &Path) -> Option<&Package> {
        self.packages.iter().find(|package| path.starts_with(&package.folder))
    }
}

fn packages(root: &Path) -> Result<Vec<Package>> {
    let text = output(&cargo_binary(), &["metadata", "--format-version", "1", "--no-deps"])?;
    let metadata: Value = serde_json::from_str(&text).context("cargo metadata")?;
    let relative = |path: &Value| -> PathBuf {
        let path = Path::new(path.as_str().unwrap_or_default());
        path.strip_prefix(root).unwrap_or(path).to_owned()
    };
    let mut packages = Vec::new();
    for package in metadata["packages"].as_array().into_iter().flatten() {
        let manifest = relative(&package["manifest_path"]);
        let ships = |dependency: &&Value| dependency["kind"].as_str() != Some("dev");
        packages.push(Package {
            name: package["name"].as_str().unwrap_or_default().to_owned(),
            folder: manifest.parent().unwrap_or(Path::new("")).to_owned(),
            dependencies: list(package, "dependencies").filter(ships).filter_map(name).collect(),
            roots: list(package, "targets").map(|target| relative(&target["src_path"])).collect(),
        });
    }
    Ok(packages)
}

fn list<'a>(value: &'a Value, key: &str) -> impl Iterator<Item = &'a Value> {
    value[key].as_array().into_iter().flatten()
}

fn name(value: &Value) -> Option<String> {
    Some(value["name"].as_str()?.to_owned())
}
