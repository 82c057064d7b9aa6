//! Counts what is too large: long functions, long files, long lines. Tests and generated code are not counted.

use std::collections::BTreeMap;

use crate::tidy::files::Workspace;
use crate::tidy::source::Source;

pub const FUNCTION_LINES_MAX: usize = 70;
pub const FILE_LINES_MAX: usize = 500;
pub const COLUMNS_MAX: usize = 110;

/// What is counted; the names are the tables of the ratchet.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Measure {
    /// Files with more lines of production code than the limit: how many lines.
    FileLines,
    /// Functions with more lines than the limit: how many functions.
    Functions,
    /// Lines with more columns than the limit: how many lines.
    Lines,
}

impl Measure {
    pub const ALL: [Self; 3] = [Self::FileLines, Self::Functions, Self::Lines];

    pub fn name(self) -> &'static str {
        match self {
            Self::FileLines => "files-over-500-lines",
            Self::Functions => "functions-over-70-lines",
            Self::Lines => "lines-over-110-columns",
        }
    }
}

/// Per measure and file, never zero.
pub type Counts = BTreeMap<(Measure, String), usize>;

pub fn count(workspace: &Workspace) -> Counts {
    let mut counts = Counts::new();
    for (path, source) in &workspace.sources {
        let path = path.to_string_lossy().into_owned();
        if path.contains("/generated/") {
            continue;
        }
        let mut set = |measure, count: usize| {
            if count > 0 {
                counts.insert((measure, path.clone()), count);
            }
        };
        set(Measure::Lines, source.text.lines().filter(|line| line.chars().count() > COLUMNS_MAX).count());
        if !source.test_only {
            set(Measure::Functions, long_functions(source));
            let lines = production_lines(source);
            set(Measure::FileLines, if lines > FILE_LINES_MAX { lines } else { 0 });
        }
    }
    counts
}

/// Lines of code outside tests; blank lines and comments do not count.
fn production_lines(source: &Source) -> usize {
    let mut code = source.uncommented.clone().into_bytes();
    for (start, end) in source.test_ranges() {
        for byte in &mut code[start..end] {
            if *byte != b'\n' {
                *byte = b' ';
            }
        }
    }
    code.split(|byte| *byte == b'\n').filter(|line| !line.trim_ascii().is_empty()).count()
}

fn long_functions(source: &Source) -> usize {
    let tests = source.test_ranges();
    source
        .words("fn")
        .filter(|at| !tests.iter().any(|(start, end)| (*start..*end).contains(at)))
        .filter(|at| {
            // A function type, as in `fn(u8)`, has no name.
            let named = source.code[at + 2..]
                .trim_start()
                .starts_with(|first: char| first.is_alphabetic() || first == '_');
            named && source.line_of(source.item_end(*at)) - source.line_of(*at) + 1 > FUNCTION_LINES_MAX
        })
        .count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_functions_are_counted_outside_tests() {
        let body = "    x();\n".repeat(69);
        let long = format!("fn long() {{\n{body}}}\n");
        let short = format!("fn short() {{\n{}}}\n", "    x();\n".repeat(68));
        let source =
            Source::new(&format!("{long}{short}#[cfg(test)]\nmod tests {{\n{long}}}\ntype F = fn(u8);\n"));
        assert_eq!(long_functions(&source), 1);
    }

    #[test]
    fn comments_blank_lines_and_tests_are_no_production_lines() {
        let source = Source::new(
            "//! Doc.\n\nfn a() {\n    // why\n    b();\n}\n#[cfg(test)]\nmod tests {\n    c();\n}\n",
        );
        assert_eq!(production_lines(&source), 3);
    }
}
