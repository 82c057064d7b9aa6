//! The project's own rules, checked: a rule that nothing checks decays.
//!
//! Broken rules fail. Sizes are held by a ratchet: `tidy-ratchet.toml` lists what is too large today, and may only
//! shrink.

mod files;
mod layers;
mod modules;
mod ratchet;
mod sizes;
mod source;
mod symbols;
mod words;

use anyhow::{Result, bail};

use crate::steps::root;
use files::Workspace;
use ratchet::Ratchet;

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Mode {
    Check,
    /// Also writes the ratchet down to today's counts.
    Update,
}

/// Checks everything; fails after all problems were printed.
pub fn run(mode: Mode) -> Result<()> {
    let workspace = Workspace::read(root())?;
    let mut problems = Vec::new();
    layers::check(&workspace, &mut problems);
    words::check(&workspace, &mut problems);
    modules::check(&workspace, &mut problems);
    symbols::check(&workspace, &mut problems);
    let counts = sizes::count(&workspace);
    let path = root().join("xtask/tidy-ratchet.toml");
    let mut ratchet = Ratchet::read(&path)?;
    if mode == Mode::Update {
        ratchet.lower_to(&counts);
        ratchet.write(&path)?;
    }
    let warnings = ratchet.compare(&counts, &mut problems);
    for warning in &warnings {
        println!("warning: {warning}");
    }
    for problem in &problems {
        println!("{problem}");
    }
    if !problems.is_empty() {
        bail!("tidy: {} problems", problems.len());
    }
    println!("tidy: {} files, no problems", workspace.sources.len());
    Ok(())
}
