//! Rows under a header: framed for people, or as CSV and TSV for programs.

use std::cmp::Ordering;

use clap::ValueEnum;

/// How rows are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Form {
    /// Columns in a frame.
    Table,
    /// Separated by commas, quoted where needed.
    Csv,
    /// Separated by tabs.
    Tsv,
}

/// A header and its rows.
#[derive(Debug, Default)]
pub(crate) struct Table {
    pub(crate) header: Vec<&'static str>,
    pub(crate) rows: Vec<Vec<String>>,
}

impl Table {
    /// Sorts by the named columns, one after the other: numbers as numbers, everything else as text.
    pub(crate) fn sort_by(&mut self, columns: &[String]) -> Result<(), String> {
        let mut places = Vec::with_capacity(columns.len());
        for column in columns {
            let place = self.header.iter().position(|name| name == column);
            places.push(place.ok_or_else(|| format!("no column {column}; there are {}", self.header.join(", ")))?);
        }
        self.rows.sort_by(|a, b| {
            let cells = places.iter().map(|&place| (a.get(place), b.get(place)));
            cells.map(|(a, b)| compare(a, b)).find(|order| order.is_ne()).unwrap_or(Ordering::Equal)
        });
        Ok(())
    }

    pub(crate) fn text(&self, form: Form) -> String {
        let header: Vec<String> = self.header.iter().map(|name| (*name).to_owned()).collect();
        match form {
            Form::Table => self.framed(&header),
            Form::Csv => self.separated(
                &header,
                |cell| {
                    if cell.contains([',', '"', '\n']) {
                        format!("\"{}\"", cell.replace('"', "\"\""))
                    } else {
                        cell.into()
                    }
                },
                ",",
            ),
            Form::Tsv => self.separated(&header, |cell| cell.replace(['\t', '\n'], " "), "\t"),
        }
    }

    fn separated(&self, header: &[String], cell: impl Fn(&str) -> String, between: &str) -> String {
        let line = |row: &[String]| row.iter().map(|text| cell(text)).collect::<Vec<_>>().join(between) + "\n";
        std::iter::once(line(header)).chain(self.rows.iter().map(|row| line(row))).collect()
    }

    fn framed(&self, header: &[String]) -> String {
        let mut widths: Vec<usize> = header.iter().map(|name| name.chars().count()).collect();
        for row in &self.rows {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = (*width).max(cell.chars().count());
            }
        }
        let line = |row: &[String]| {
            let cells: Vec<String> = row.iter().zip(&widths).map(|(cell, &width)| format!(" {cell:width$} ")).collect();
            format!("|{}|\n", cells.join("|"))
        };
        let rule: Vec<String> = widths.iter().map(|width| "-".repeat(width + 2)).collect();
        let mut text = line(header);
        text += &format!("|{}|\n", rule.join("|"));
        text.extend(self.rows.iter().map(|row| line(row)));
        text
    }
}

fn compare(a: Option<&String>, b: Option<&String>) -> Ordering {
    let number = |cell: Option<&String>| cell.and_then(|text| text.replace(',', "").parse::<u64>().ok());
    match (number(a), number(b)) {
        (Some(a), Some(b)) => a.cmp(&b),
        _ => a.cmp(&b),
    }
}

/// A number with its thousands set apart: `17,679`.
pub(crate) fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() * 4 / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Table {
        let row = |cells: [&str; 2]| cells.map(str::to_owned).to_vec();
        Table { header: vec!["NAME", "#"], rows: vec![row(["b,c", "1,000"]), row(["a", "9"])] }
    }

    #[test]
    fn rows_sort_by_the_columns_that_are_named_and_numbers_as_numbers() {
        let mut table = table();
        table.sort_by(&["#".to_owned()]).unwrap();
        assert_eq!(table.rows[0][0], "a");
        table.sort_by(&["NAME".to_owned()]).unwrap();
        assert_eq!(table.rows[0][0], "a");
        assert_eq!(table.sort_by(&["AGE".to_owned()]).unwrap_err(), "no column AGE; there are NAME, #");
    }

    #[test]
    fn a_cell_with_a_comma_is_quoted_in_csv_alone() {
        assert_eq!(table().text(Form::Csv), "NAME,#\n\"b,c\",\"1,000\"\na,9\n");
        assert_eq!(table().text(Form::Tsv), "NAME\t#\nb,c\t1,000\na\t9\n");
        assert_eq!(
            table().text(Form::Table),
            "| NAME | #     |\n|------|-------|\n| b,c  | 1,000 |\n| a    | 9     |\n"
        );
    }

    #[test]
    fn thousands_are_set_apart() {
        assert_eq!([0, 999, 1000, 1_234_567].map(thousands), ["0", "999", "1,000", "1,234,567"]);
    }
}
