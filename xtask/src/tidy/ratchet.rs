//! What is too large today, file by file. The list may only get shorter and its numbers smaller.

use std::fmt::Write;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};

use crate::tidy::sizes::{Counts, Measure};

const HEAD: &str = "\
# What is larger than the limits of tidy. These numbers may only shrink: `cargo xtask tidy --update` lowers them, and
# takes out what is within the limits. A cohesive file that has to stay large says why at its top.
";

/// The recorded counts.
#[derive(Debug, Default)]
pub struct Ratchet {
    /// `None` until the first `--update`.
    counts: Option<Counts>,
}

impl Ratchet {
    pub fn read(path: &Path) -> Result<Self> {
        if !path.exists() {
            return Ok(Self::default());
        }
        Self::parse(&fs::read_to_string(path)?).with_context(|| path.display().to_string())
    }

    fn parse(text: &str) -> Result<Self> {
        let mut counts = Counts::new();
        let mut measure = None;
        for line in text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')) {
            if let Some(name) = line.strip_prefix('[').and_then(|line| line.strip_suffix(']')) {
                measure = Measure::ALL.into_iter().find(|measure| measure.name() == name);
                if measure.is_none() {
                    bail!("unknown table {name}");
                }
                continue;
            }
            let (Some(measure), Some((path, count))) = (measure, line.split_once(" = ")) else {
                bail!("not understood: {line}");
            };
            counts.insert((measure, path.trim_matches('"').to_owned()), count.parse()?);
        }
        Ok(Self { counts: Some(counts) })
    }

    /// Takes lower counts over; the first time, all counts.
    pub fn lower_to(&mut self, counts: &Counts) {
        let lowered = match &self.counts {
            None => counts.clone(),
            Some(before) => before
                .iter()
                .filter_map(|(key, before)| Some((key.clone(), (*counts.get(key)?).min(*before))))
                .collect(),
        };
        self.counts = Some(lowered);
    }

    pub fn write(&self, path: &Path) -> Result<()> {
        fs::write(path, self.text()).with_context(|| path.display().to_string())
    }

    fn text(&self) -> String {
        let mut text = HEAD.to_owned();
        for measure in Measure::ALL {
            let _ = writeln!(text, "\n[{}]", measure.name());
            for ((_, path), count) in self.counts.iter().flatten().filter(|((of, _), _)| *of == measure) {
                let _ = writeln!(text, "\"{path}\" = {count}");
            }
        }
        text
    }

    /// Adds what grew to `problems`; returns what is too large but recorded, as warnings.
    pub fn compare(&self, counts: &Counts, problems: &mut Vec<String>) -> Vec<String> {
        let mut warnings = Vec::new();
        let Some(recorded) = &self.counts else {
            warnings.push("there is no ratchet yet: run `cargo xtask tidy --update`".to_owned());
            return warnings;
        };
        for ((measure, path), count) in counts {
            let allowed = recorded.get(&(*measure, path.clone())).copied().unwrap_or(0);
            let text = format!("{path}: {} {count}, recorded {allowed}", measure.name());
            if *count > allowed {
                problems.push(text);
            } else {
                warnings.push(text);
            }
        }
        let lower = recorded.iter().any(|(key, before)| counts.get(key).copied().unwrap_or(0) < *before);
        if lower {
            warnings.push("some counts went down: run `cargo xtask tidy --update`".to_owned());
        }
        warnings
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(entries: &[(&str, usize)]) -> Counts {
        entries.iter().map(|(path, count)| ((Measure::Lines, (*path).to_owned()), *count)).collect()
    }

    #[test]
    fn counts_may_only_shrink() {
        let mut ratchet = Ratchet::default();
        ratchet.lower_to(&counts(&[("a.rs", 3), ("b.rs", 1)]));
        let mut ratchet = Ratchet::parse(&ratchet.text()).unwrap();
        let compare = |ratchet: &Ratchet, now: &[(&str, usize)]| {
            let mut problems = Vec::new();
            ratchet.compare(&counts(now), &mut problems);
            problems
        };
        assert_eq!(compare(&ratchet, &[("a.rs", 3), ("b.rs", 1)]), Vec::<String>::new());
        assert_eq!(compare(&ratchet, &[("a.rs", 4)]), ["a.rs: lines-over-110-columns 4, recorded 3"]);
        assert_eq!(compare(&ratchet, &[("c.rs", 1)]), ["c.rs: lines-over-110-columns 1, recorded 0"]);
        ratchet.lower_to(&counts(&[("a.rs", 2), ("c.rs", 1)]));
        assert_eq!(compare(&ratchet, &[("a.rs", 3), ("b.rs", 1)]).len(), 2);
        assert_eq!(compare(&ratchet, &[("a.rs", 2)]), Vec::<String>::new());
    }
}
