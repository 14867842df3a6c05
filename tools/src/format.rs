//! Bytes, times, modes, names and tables for people.
use dfs_core::types::{FileKind, Time, Timestamp};
use std::time::Duration;

/// `4.0 MiB`; exact below 1 KiB.
#[must_use]
pub fn size(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut scaled = bytes as f64 / 1024.0;
    let mut unit = 0;
    // 1023.95 would be shown as 1024.0.
    while scaled >= 1023.95 && unit + 1 < UNITS.len() {
        scaled /= 1024.0;
        unit += 1;
    }
    format!("{scaled:.1} {}", UNITS[unit])
}

/// `2026-11-21T09:45:50.000000001Z`, with as many decimals as asked (0 to 9).
#[must_use]
pub fn time_iso(t: Timestamp, decimals: u32) -> String {
    let (year, month, day) = civil(t.secs.div_euclid(86_400));
    let rest = t.secs.rem_euclid(86_400);
    let (hour, minute, second) = (rest / 3600, rest / 60 % 60, rest % 60);
    let mut text = format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}");
    if decimals > 0 {
        let digits = format!("{:09}", t.nanos.min(999_999_999));
        text.push('.');
        text.push_str(&digits[..decimals.min(9) as usize]);
    }
    text + "Z"
}

/// `2026-11-21 09:45:50Z`.
#[must_use]
pub fn time(t: Timestamp) -> String {
    time_iso(t, 0).replace('T', " ")
}

/// A Unix time of the log or of a node.
#[must_use]
pub fn unix_time(t: Time) -> String {
    time(Timestamp::from_log_time(t))
}

/// Milliseconds since the Unix epoch.
#[must_use]
pub fn unix_ms(t: Time) -> u64 {
    t.0 / 1_000_000
}

/// Year, month and day of a day number since 1970-01-01 (Howard Hinnant's `civil_from_days`).
fn civil(days: i64) -> (i64, i64, i64) {
    let z = days.saturating_add(719_468);
    let era = z.div_euclid(146_097);
    let of_era = z.rem_euclid(146_097);
    let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let shifted = (5 * of_year + 2) / 153;
    let day = of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 {
        shifted + 3
    } else {
        shifted - 9
    };
    (year + era * 400 + i64::from(month <= 2), month, day)
}

/// `1h02m`, `3m05s`, `12.3s`, `45ms`.
#[must_use]
pub fn duration(d: Duration) -> String {
    let secs = d.as_secs();
    match secs {
        0 => format!("{}ms", d.as_millis()),
        1..60 => format!("{:.1}s", d.as_secs_f64()),
        60..3600 => format!("{}m{:02}s", secs / 60, secs % 60),
        _ => format!("{}h{:02}m", secs / 3600, secs / 60 % 60),
    }
}

/// `-rwxr-xr-x`.
#[must_use]
pub fn mode(kind: FileKind, mode: u32) -> String {
    let mut text = String::with_capacity(10);
    text.push(match kind {
        FileKind::File => '-',
        FileKind::Dir => 'd',
        FileKind::Symlink => 'l',
        FileKind::Fifo => 'p',
        FileKind::Socket => 's',
        FileKind::BlockDev => 'b',
        FileKind::CharDev => 'c',
    });
    for (shift, special, set) in [(6, 0o4000, 's'), (3, 0o2000, 's'), (0, 0o1000, 't')] {
        let bits = mode >> shift;
        text.push(if bits & 4 != 0 { 'r' } else { '-' });
        text.push(if bits & 2 != 0 { 'w' } else { '-' });
        text.push(match (mode & special != 0, bits & 1 != 0) {
            (true, true) => set,
            (true, false) => set.to_ascii_uppercase(),
            (false, true) => 'x',
            (false, false) => '-',
        });
    }
    text
}

/// `file`, `dir`, ...
#[must_use]
pub fn kind(kind: FileKind) -> &'static str {
    match kind {
        FileKind::File => "file",
        FileKind::Dir => "dir",
        FileKind::Symlink => "symlink",
        FileKind::Fifo => "fifo",
        FileKind::Socket => "socket",
        FileKind::BlockDev => "block",
        FileKind::CharDev => "char",
    }
}

/// A name or path that can be printed and put back together: UTF-8 stays as it is, but for `\\`,
/// control characters and bytes that are no UTF-8, which become `\\\\` and `\\xNN`.
#[must_use]
pub fn escape(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            match c {
                '\\' => text.push_str("\\\\"),
                c if c.is_control() => {
                    let mut buffer = [0; 4];
                    for b in c.encode_utf8(&mut buffer).bytes() {
                        text.push_str(&format!("\\x{b:02x}"));
                    }
                }
                c => text.push(c),
            }
        }
        for b in chunk.invalid() {
            text.push_str(&format!("\\x{b:02x}"));
        }
    }
    text
}

/// The first 8 hexadecimal digits of an id, enough to name it.
#[must_use]
pub fn short_id(id: u128) -> String {
    format!("{:08x}", id >> 96)
}

/// How a column is aligned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Align {
    /// Text.
    Left,
    /// Numbers.
    Right,
}

/// Rows under a heading, columns as wide as they need.
#[derive(Debug, Clone)]
pub struct Table {
    columns: Vec<(&'static str, Align)>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table with these columns. A heading that ends with `>` makes a right-aligned column.
    #[must_use]
    pub fn new(headings: &[&'static str]) -> Self {
        let column = |h: &&'static str| match h.strip_suffix('>') {
            Some(h) => (h, Align::Right),
            None => (*h, Align::Left),
        };
        Self {
            columns: headings.iter().map(column).collect(),
            rows: Vec::new(),
        }
    }

    /// Adds a row; missing cells are empty.
    pub fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        let mut cells: Vec<String> = cells.into_iter().collect();
        cells.resize(self.columns.len(), String::new());
        self.rows.push(cells);
    }

    /// True without rows.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Lines, each ended by a newline.
    #[must_use]
    pub fn render(&self) -> String {
        let mut widths: Vec<usize> = self.columns.iter().map(|(h, _)| h.len()).collect();
        for row in &self.rows {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = (*width).max(cell.chars().count());
            }
        }
        let heading: Vec<String> = self.columns.iter().map(|(h, _)| (*h).to_owned()).collect();
        let mut text = String::new();
        for row in std::iter::once(&heading).chain(&self.rows) {
            let mut line = String::new();
            for ((cell, width), (_, align)) in row.iter().zip(&widths).zip(&self.columns) {
                let pad = " ".repeat(width.saturating_sub(cell.chars().count()));
                if !line.is_empty() {
                    line.push_str("  ");
                }
                match align {
                    Align::Left => line.extend([cell.as_str(), &pad]),
                    Align::Right => line.extend([pad.as_str(), cell]),
                }
            }
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_exact_when_small_and_never_show_1024_of_a_unit() {
        assert_eq!(size(0), "0 B");
        assert_eq!(size(1023), "1023 B");
        assert_eq!(size(4 << 20), "4.0 MiB");
        assert_eq!(size((1 << 20) - 1), "1.0 MiB");
        assert_eq!(size(u64::MAX), "16.0 EiB");
    }

    #[test]
    fn times_are_right_before_and_after_the_epoch_and_on_leap_days() {
        let t = |secs| time(Timestamp { secs, nanos: 0 });
        assert_eq!(t(0), "1970-01-01 00:00:00Z");
        assert_eq!(t(-1), "1969-12-31 23:59:59Z");
        assert_eq!(t(951_782_400), "2000-02-29 00:00:00Z");
        assert_eq!(t(1_795_254_350), "2026-11-21 09:45:50Z");
        let fine = Timestamp { secs: 1, nanos: 7 };
        assert_eq!(time_iso(fine, 9), "1970-01-01T00:00:01.000000007Z");
        assert!(!t(i64::MAX).is_empty() && !t(i64::MIN).is_empty());
    }

    #[test]
    fn modes_look_as_ls_shows_them() {
        assert_eq!(mode(FileKind::File, 0o755), "-rwxr-xr-x");
        assert_eq!(mode(FileKind::Dir, 0o1777), "drwxrwxrwt");
        assert_eq!(mode(FileKind::File, 0o4644), "-rwSr--r--");
    }

    #[test]
    fn escaped_names_can_be_told_apart() {
        assert_eq!(escape("grün".as_bytes()), "grün");
        assert_eq!(escape(b"a\nb\\c\xff"), "a\\x0ab\\\\c\\xff");
        assert_ne!(escape(b"\\xff"), escape(b"\xff"));
    }

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let mut table = Table::new(&["NAME", "BYTES>"]);
        table.row(["a".to_owned(), "12345678".to_owned()]);
        table.row(["longer".to_owned(), "1".to_owned()]);
        let want = "NAME       BYTES\na       12345678\nlonger         1\n";
        assert_eq!(table.render(), want);
    }

    #[test]
    fn durations_fit_their_length() {
        assert_eq!(duration(Duration::from_millis(45)), "45ms");
        assert_eq!(duration(Duration::from_millis(12_340)), "12.3s");
        assert_eq!(duration(Duration::from_secs(185)), "3m05s");
        assert_eq!(duration(Duration::from_secs(3720)), "1h02m");
    }
}
