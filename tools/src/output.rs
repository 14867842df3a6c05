//! Standard output: lines, tables and JSON. A closed pipe is an error to return, never a panic.
use crate::format::{Table, escape};
use serde::Serialize;
use std::io::{self, BufWriter, IsTerminal, Write};

/// Where results go.
pub struct Out {
    to: Box<dyn Write + Send>,
    /// JSON instead of tables.
    pub json: bool,
    is_terminal: bool,
}

impl Out {
    /// Standard output.
    #[must_use]
    pub fn stdout(json: bool) -> Self {
        let is_terminal = io::stdout().is_terminal();
        // Not `io::stdout()`: it is line-buffered, and panics when printing at exit fails.
        Self {
            to: Box::new(BufWriter::with_capacity(64 << 10, io::stdout())),
            json,
            is_terminal,
        }
    }

    /// Anything else, as in tests.
    #[must_use]
    pub fn to(to: Box<dyn Write + Send>, json: bool) -> Self {
        Self {
            to,
            json,
            is_terminal: false,
        }
    }

    /// One line.
    ///
    /// # Errors
    /// Standard output cannot be written.
    pub fn line(&mut self, text: impl AsRef<str>) -> anyhow::Result<()> {
        self.text(text)?;
        self.bytes(b"\n")
    }

    /// Says that something was done; nothing where JSON is wanted.
    ///
    /// # Errors
    /// Standard output cannot be written.
    pub fn confirm(&mut self, text: impl AsRef<str>) -> anyhow::Result<()> {
        match self.json {
            true => Ok(()),
            false => self.line(text),
        }
    }

    /// Text as it is.
    ///
    /// # Errors
    /// Standard output cannot be written.
    pub fn text(&mut self, text: impl AsRef<str>) -> anyhow::Result<()> {
        self.bytes(text.as_ref().as_bytes())
    }

    /// Bytes as they are.
    ///
    /// # Errors
    /// Standard output cannot be written.
    pub fn bytes(&mut self, bytes: &[u8]) -> anyhow::Result<()> {
        Ok(self.to.write_all(bytes)?)
    }

    /// A name or path: its bytes as they are, but on a terminal escaped, which it could otherwise
    /// disturb.
    ///
    /// # Errors
    /// Standard output cannot be written.
    pub fn name(&mut self, name: &[u8]) -> anyhow::Result<()> {
        if self.is_terminal {
            return self.text(escape(name));
        }
        self.bytes(name)
    }

    /// A table.
    ///
    /// # Errors
    /// Standard output cannot be written.
    pub fn table(&mut self, table: &Table) -> anyhow::Result<()> {
        self.text(table.render())
    }

    /// One JSON document, indented.
    ///
    /// # Errors
    /// Standard output cannot be written.
    pub fn json<T: Serialize + ?Sized>(&mut self, value: &T) -> anyhow::Result<()> {
        let text = serde_json::to_string_pretty(value)?;
        self.line(text)
    }

    /// One JSON document on a line of its own, at once.
    ///
    /// # Errors
    /// Standard output cannot be written.
    pub fn json_line<T: Serialize + ?Sized>(&mut self, value: &T) -> anyhow::Result<()> {
        let text = serde_json::to_string(value)?;
        self.line(text)?;
        self.flush()
    }

    /// Writes what is buffered.
    ///
    /// # Errors
    /// Standard output cannot be written.
    pub fn flush(&mut self) -> anyhow::Result<()> {
        Ok(self.to.flush()?)
    }
}

/// Something to say beside the results, on standard error.
pub fn note(text: impl AsRef<str>) {
    // Nowhere to report to if this fails.
    let _ = writeln!(io::stderr(), "dfs-tools: {}", text.as_ref());
}
