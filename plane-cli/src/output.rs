//! Printing results: tables for people, JSON for programs.

use crate::{Failure, arguments::Output};
use comfy_table::{Table, presets::NOTHING};
use serde::Serialize;
use std::io::Write;

/// Prints one result. `text` is what people see of it.
pub(crate) fn print<T: Serialize>(output: Output, value: &T, text: impl FnOnce() -> String) -> Result<(), Failure> {
    let line = match output {
        Output::Json => serde_json::to_string(value).map_err(std::io::Error::from)?,
        Output::Text => text(),
    };
    let mut stdout = std::io::stdout().lock();
    writeln!(stdout, "{}", line.trim_end_matches('\n'))?;
    Ok(stdout.flush()?)
}

/// Prints results that belong together.
pub(crate) fn table<T: Serialize>(
    output: Output,
    rows: &[T],
    head: &[&str],
    cells: impl Fn(&T) -> Vec<String>,
) -> Result<(), Failure> {
    print(output, &rows, || {
        let mut table = Table::new();
        table.load_style(NOTHING).set_header(head.iter().copied());
        for row in rows {
            table.add_row(cells(row));
        }
        for column in table.column_iter_mut() {
            column.set_padding((0, 2));
        }
        table.trim_fmt()
    })
}
