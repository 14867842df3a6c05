//! Rows as lines: metric, value and unit; in a comparison also the saved value and the ratio.
use super::saved::SavedRow;

/// A heading, of comparisons only: three columns explain themselves.
#[must_use]
pub fn heading() -> String {
    columns("METRIC", "VALUE", "UNIT", "SAVED", "RATIO")
}

/// One row.
#[must_use]
pub fn line(row: &SavedRow, is_comparison: bool) -> String {
    let value = number(row.value);
    if !is_comparison {
        return format!("{:<22} {value:>10} {}", row.metric, row.unit);
    }
    let cell = |value: Option<f64>| value.map_or("-".to_owned(), number);
    let ratio = row.ratio.map_or("-".to_owned(), |r| format!("{r:.2}"));
    columns(&row.metric, &value, &row.unit, &cell(row.saved), &ratio)
}

fn columns(metric: &str, value: &str, unit: &str, saved: &str, ratio: &str) -> String {
    format!("{metric:<22} {value:>10} {unit:<7} {saved:>10} {ratio:>8}")
}

/// Three digits, or all before the point.
fn number(value: f64) -> String {
    match value {
        v if v >= 99.95 => format!("{v:.0}"),
        v if v >= 9.995 => format!("{v:.1}"),
        v => format!("{v:.2}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(saved: Option<f64>, ratio: Option<f64>) -> SavedRow {
        SavedRow {
            metric: "meta1_create".to_owned(),
            value: 1234.5,
            unit: "ops/s".to_owned(),
            saved,
            ratio,
        }
    }

    #[test]
    fn lines_have_three_words_and_comparisons_five() {
        let words = |line: &str| line.split_whitespace().count();
        assert_eq!(
            line(&row(None, None), false),
            "meta1_create                 1234 ops/s"
        );
        let compared = line(&row(Some(617.0), Some(2.0)), true);
        assert!(
            compared.ends_with("ops/s          617     2.00"),
            "{compared}"
        );
        assert_eq!(words(&line(&row(None, None), true)), 5);
        assert_eq!(words(&heading()), 5);
        assert_eq!(heading().len(), compared.len());
    }

    #[test]
    fn numbers_have_three_digits_at_least() {
        let shown = [0.0, 0.126, 9.994, 9.996, 99.94, 99.96, 123_456.7].map(number);
        assert_eq!(
            shown,
            ["0.00", "0.13", "9.99", "10.0", "99.9", "100", "123457"]
        );
    }
}
