//! What a benchmark found: facts, then tables, as text or JSON.

use serde_json::{Map, Value, json};

/// A benchmark's result.
pub struct Report {
    title: String,
    facts: Vec<(String, String)>,
    figures: Vec<(&'static str, f64)>,
    tables: Vec<Table>,
}

impl Report {
    pub fn new(title: impl Into<String>) -> Report {
        Report { title: title.into(), facts: Vec::new(), figures: Vec::new(), tables: Vec::new() }
    }

    /// Something that one has to know to read the figures.
    pub fn fact(&mut self, name: impl Into<String>, value: impl Into<String>) {
        self.facts.push((name.into(), value.into()));
    }

    /// A single figure, at the top of the JSON.
    pub fn figure(&mut self, name: &'static str, value: f64) {
        self.figures.push((name, value));
    }

    pub fn table(&mut self, table: Table) {
        self.tables.push(table);
    }

    pub fn print(&self, json: bool) {
        if json {
            println!("{:#}", self.to_json());
        } else {
            print!("{}", self.to_text());
        }
    }

    fn to_text(&self) -> String {
        let mut out = format!("{}\n\n", self.title);
        let width = self.facts.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0);
        for (name, value) in &self.facts {
            out += &format!("{name:width$}  {value}\n");
        }
        for (name, value) in &self.figures {
            out += &format!("{name}  {}\n", grouped(*value, 3));
        }
        for table in &self.tables {
            out.push('\n');
            out += &table.to_text();
        }
        out
    }

    fn to_json(&self) -> Value {
        let facts: Map<String, Value> = self.facts.iter().map(|(k, v)| (k.clone(), json!(v))).collect();
        let tables: Vec<Value> = self.tables.iter().map(Table::to_json).collect();
        let mut whole = json!({"title": self.title, "facts": facts, "tables": tables});
        for (name, value) in &self.figures {
            whole[*name] = json!(value);
        }
        whole
    }
}

/// One line for each thing measured, one column for each figure. The first column is a name.
pub struct Table {
    columns: Vec<&'static str>,
    rows: Vec<Vec<Cell>>,
}

/// A figure with what it is rounded to.
pub enum Cell {
    Text(String),
    /// Value and decimals.
    Number(f64, usize),
    /// A value, the bar that it must stay below, and decimals.
    Below(f64, f64, usize),
    None,
}

impl Table {
    pub fn new(columns: &[&'static str]) -> Table {
        Table { columns: columns.to_vec(), rows: Vec::new() }
    }

    /// `cells` in the order of the columns.
    pub fn row(&mut self, cells: impl IntoIterator<Item = Cell>) {
        self.rows.push(cells.into_iter().collect());
    }

    fn to_text(&self) -> String {
        let header: Vec<String> = self.columns.iter().map(|c| (*c).to_owned()).collect();
        let mut lines = vec![header];
        lines.extend(self.rows.iter().map(|row| row.iter().map(Cell::to_text).collect()));
        let count = self.columns.len();
        let width = |at: usize| {
            lines.iter().filter_map(|line| line.get(at)).map(|t| t.chars().count()).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..count).map(width).collect();
        let mut out = String::new();
        for line in &lines {
            let mut text = String::new();
            for (at, (cell, &width)) in line.iter().zip(&widths).enumerate() {
                text += &if at == 0 { format!("{cell:width$}") } else { format!("  {cell:>width$}") };
            }
            out += text.trim_end();
            out.push('\n');
        }
        out
    }

    fn to_json(&self) -> Value {
        let object = |row: &Vec<Cell>| {
            let fields =
                self.columns.iter().zip(row).map(|(name, cell)| ((*name).to_owned(), cell.to_json()));
            Value::Object(fields.collect())
        };
        Value::Array(self.rows.iter().map(object).collect())
    }
}

impl Cell {
    pub fn text(text: impl Into<String>) -> Cell {
        Cell::Text(text.into())
    }

    fn to_text(&self) -> String {
        match self {
            Cell::Text(text) => text.clone(),
            Cell::Number(value, decimals) => grouped(*value, *decimals),
            Cell::Below(value, bar, decimals) => {
                let verdict = if value < bar { "<" } else { "NOT <" };
                format!("{} {verdict} {}", grouped(*value, *decimals), trimmed(*bar))
            }
            Cell::None => "-".to_owned(),
        }
    }

    fn to_json(&self) -> Value {
        match self {
            Cell::Text(text) => json!(text),
            Cell::Number(value, _) => json!(value),
            Cell::Below(value, bar, _) => json!({"value": value, "bar": bar, "met": value < bar}),
            Cell::None => Value::Null,
        }
    }
}

fn trimmed(value: f64) -> String {
    format!("{value}")
}

/// `1234567.8` as `1,234,567.8`.
fn grouped(value: f64, decimals: usize) -> String {
    let text = format!("{value:.decimals$}");
    let (whole, fraction) = text.split_once('.').unwrap_or((&text, ""));
    let mut out = String::new();
    for (at, digit) in whole.chars().enumerate() {
        let left = whole.len() - at;
        if at > 0 && left.is_multiple_of(3) && !out.ends_with('-') {
            out.push(',');
        }
        out.push(digit);
    }
    if !fraction.is_empty() {
        out.push('.');
        out += fraction;
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_grouped() {
        for (value, decimals, expect) in [
            (0.0, 0, "0"),
            (999.4, 0, "999"),
            (1000.0, 1, "1,000.0"),
            (-123_456.0, 0, "-123,456"),
            (1e6, 0, "1,000,000"),
        ] {
            assert_eq!(grouped(value, decimals), expect);
        }
    }

    #[test]
    fn tables_are_aligned_and_bars_judged() {
        let mut report = Report::new("T");
        report.fact("disk", "fast");
        let mut table = Table::new(&["what", "MB"]);
        table.row([Cell::text("broker"), Cell::Number(1234.56, 1)]);
        table.row([Cell::text("x"), Cell::Below(31.0, 30.0, 0)]);
        report.table(table);
        assert_eq!(
            report.to_text(),
            "T\n\ndisk  fast\n\nwhat             MB\nbroker      1,234.6\nx       31 NOT < 30\n"
        );
        assert_eq!(report.to_json()["tables"][0][1]["MB"]["met"], json!(false));
    }
}
