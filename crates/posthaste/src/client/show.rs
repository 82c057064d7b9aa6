//! How things are printed: as aligned tables and lists for people, as JSON for programs.

use super::{Done, Failure};
use serde_json::Value;
use std::io::{self, Write};

/// Fields that say which thing it is: they come first.
const NAMING: [&str; 8] = ["name", "id", "topic", "partition", "exchange", "queue", "to_exchange", "start"];

/// A column: its title, and the text of a thing in it.
pub type Column = (&'static str, fn(&Value) -> String);

/// Prints a list.
pub fn list(json: bool, items: Vec<Value>, columns: &[Column]) -> Done {
    if json {
        return print(&format!("{}\n", Value::Array(items)));
    }
    let rows: Vec<Vec<String>> =
        items.iter().map(|item| columns.iter().map(|(_, text)| text(item)).collect()).collect();
    let titles: Vec<&str> = columns.iter().map(|(title, _)| *title).collect();
    print(&table(&titles, &rows))
}

/// Prints one thing with all that is known of it.
pub fn one(json: bool, thing: &Value) -> Done {
    if json { print(&format!("{thing}\n")) } else { print(&description(thing)) }
}

/// Prints what was done: the thing itself for programs, `text` for people.
pub fn done(json: bool, thing: &Value, text: &str) -> Done {
    match (json, thing) {
        (true, Value::Null) => Ok(()),
        (true, thing) => print(&format!("{thing}\n")),
        (false, _) => print(&format!("{text}\n")),
    }
}

/// A field as text; `-` when it is not there.
pub fn field(thing: &Value, name: &str) -> String {
    thing.get(name).map_or_else(|| "-".to_owned(), plain)
}

/// Prints all of it at once. Whoever does not want to read any more ends the program, quietly.
pub fn print(text: &str) -> Done {
    let mut out = io::stdout().lock();
    written(out.write_all(text.as_bytes()).and_then(|()| out.flush()))
}

/// The result of writing to standard output.
pub fn written(result: io::Result<()>) -> Done {
    match result {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => std::process::exit(0),
        Err(error) => Err(Failure::new(format!("cannot write: {error}"))),
        Ok(()) => Ok(()),
    }
}

fn table(titles: &[&str], rows: &[Vec<String>]) -> String {
    let is_number = |text: &String| text == "-" || text.parse::<f64>().is_ok();
    let columns: Vec<(usize, bool)> = (0..titles.len())
        .map(|at| {
            let cells = || rows.iter().filter_map(move |row| row.get(at));
            let widest = cells().map(|cell| cell.chars().count()).max().unwrap_or(0);
            let title = titles.get(at).map_or(0, |title| title.chars().count());
            let right = cells().any(|cell| cell != "-") && cells().all(is_number);
            (widest.max(title), right)
        })
        .collect();
    let line = |cells: &mut dyn Iterator<Item = &str>| {
        let mut line = String::new();
        for ((width, right), cell) in columns.iter().zip(cells) {
            let space = " ".repeat(width - cell.chars().count());
            line += &if *right { format!("{space}{cell}  ") } else { format!("{cell}{space}  ") };
        }
        format!("{}\n", line.trim_end())
    };
    let mut text = line(&mut titles.iter().copied());
    for row in rows {
        text += &line(&mut row.iter().map(String::as_str));
    }
    text
}

fn description(thing: &Value) -> String {
    let Value::Object(fields) = thing else { return format!("{}\n", plain(thing)) };
    let is_table = |value: &Value| {
        value.as_array().is_some_and(|items| !items.is_empty() && items.iter().all(Value::is_object))
    };
    // The name first, then whatever else there is; tables last.
    let mut lines: Vec<(String, String)> = Vec::new();
    for (name, value) in fields.iter().filter(|(_, value)| !is_table(value)) {
        match value {
            Value::Object(inner) => {
                lines.extend(inner.iter().map(|(part, value)| (format!("{name}.{part}"), plain(value))));
            }
            value => lines.push((name.clone(), plain(value))),
        }
    }
    lines.sort_by_key(|(name, _)| name != "name");
    let width = lines.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0);
    let mut text = String::new();
    for (name, value) in lines {
        text += &format!("{name:width$}  {value}\n");
    }
    for (name, items) in fields.iter().filter(|(_, value)| is_table(value)) {
        let items = items.as_array().map(Vec::as_slice).unwrap_or_default();
        let mut titles: Vec<&str> = items
            .first()
            .and_then(Value::as_object)
            .map(|o| o.keys().map(String::as_str).collect())
            .unwrap_or_default();
        titles.sort_by_key(|title| NAMING.iter().position(|name| name == title).unwrap_or(NAMING.len()));
        let rows: Vec<Vec<String>> =
            items.iter().map(|item| titles.iter().map(|title| field(item, title)).collect()).collect();
        text += &format!("\n{name}\n{}", table(&titles, &rows));
    }
    text
}

/// A value in one line, harmless on a terminal.
pub fn plain(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) if text.is_empty() => "-".to_owned(),
        Value::String(text) => harmless(text),
        Value::Array(items) if items.is_empty() => "-".to_owned(),
        Value::Array(items) => items.iter().map(plain).collect::<Vec<_>>().join(", "),
        other => other.to_string(),
    }
}

/// Without characters that steer a terminal.
pub fn harmless(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() { out.extend(c.escape_default()) } else { out.push(c) }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn tables_are_aligned() {
        let row = |name: &str, count: &str| vec![name.to_owned(), count.to_owned()];
        let text = table(&["NAME", "MESSAGES"], &[row("orders", "7"), row("bestellungen-ä", "1200")]);
        assert_eq!(text, "NAME            MESSAGES\norders                 7\nbestellungen-ä      1200\n");
        assert_eq!(table(&["NAME", "MESSAGES"], &[]), "NAME  MESSAGES\n");
    }

    #[test]
    fn descriptions_show_everything() {
        let thing = json!({
            "captures": ["a.#", "b"], "name": "orders", "retention_ms": null, "dead": {"exchange": "x"},
            "offsets": [{"end": 7, "partition": 0}, {"end": 12, "partition": 1}]
        });
        let expect = "name           orders\ncaptures       a.#, b\ndead.exchange  x\nretention_ms   -\n\n\
                      offsets\npartition  end\n        0    7\n        1   12\n";
        assert_eq!(description(&thing), expect);
    }

    #[test]
    fn nothing_steers_the_terminal() {
        assert_eq!(harmless("a\u{1b}[2Jb\nc"), "a\\u{1b}[2Jb\\nc");
        assert_eq!(harmless("grün"), "grün");
    }
}
