//! A directory for one run, gone afterwards unless the run failed.

use std::fs;
use std::path::{Path, PathBuf};
use std::process;

use anyhow::{Context, Result};

/// A fresh directory under the build directory; removed on drop unless [`Scratch::keep`] was called.
pub struct Scratch {
    path: PathBuf,
    kept: bool,
}

impl Scratch {
    /// Creates `PARENT/NAME-PROCESS`.
    pub fn new(parent: &Path, name: &str) -> Result<Self> {
        let path = parent.join(format!("{name}-{}", process::id()));
        if path.exists() {
            fs::remove_dir_all(&path).with_context(|| format!("clear {}", path.display()))?;
        }
        fs::create_dir_all(&path).with_context(|| format!("create {}", path.display()))?;
        Ok(Self { path, kept: false })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Leaves the directory for whoever looks into the failure.
    pub fn keep(&mut self) {
        self.kept = true;
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if !self.kept {
            let _ = fs::remove_dir_all(&self.path);
        }
    }
}
