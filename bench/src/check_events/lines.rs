//! Files as lines: in bounded memory, whatever stands in them.

use std::io::{BufRead, Read, Result};

/// A line of the log has some 300 octets; what is longer than this is none.
pub(super) const LINE_MAX: usize = 64 * 1_024;

/// A piece of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Piece<'a> {
    /// A line, without its end.
    Line(&'a [u8]),
    /// What follows the last line end.
    CutOff(&'a [u8]),
    /// A line that was left out.
    TooLong,
}

/// Reads pieces, one after the other.
#[derive(Debug)]
pub(super) struct Lines<R> {
    input: R,
    buffer: Vec<u8>,
}

impl<R: BufRead> Lines<R> {
    pub(super) const fn new(input: R) -> Self {
        Self { input, buffer: Vec::new() }
    }

    /// The next piece; `None` at the end.
    ///
    /// # Errors
    /// The input cannot be read.
    pub(super) fn next(&mut self) -> Result<Option<Piece<'_>>> {
        self.buffer.clear();
        let most = LINE_MAX as u64 + 1;
        if self.input.by_ref().take(most).read_until(b'\n', &mut self.buffer)? == 0 {
            return Ok(None);
        }
        if self.buffer.last() == Some(&b'\n') {
            self.buffer.pop();
            return Ok(Some(Piece::Line(&self.buffer)));
        }
        if self.buffer.len() <= LINE_MAX {
            return Ok(Some(Piece::CutOff(&self.buffer)));
        }
        self.skip_line()?;
        Ok(Some(Piece::TooLong))
    }

    fn skip_line(&mut self) -> Result<()> {
        loop {
            let available = self.input.fill_buf()?;
            let (taken, is_end) = match available.iter().position(|octet| *octet == b'\n') {
                Some(at) => (at + 1, true),
                None => (available.len(), available.is_empty()),
            };
            self.input.consume(taken);
            if is_end {
                return Ok(());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_told_apart_and_long_lines_are_left_out() {
        let long = "x".repeat(3 * LINE_MAX);
        let text = format!("one\n\n{long}\ntwo\nthr");
        let mut lines = Lines::new(std::io::BufReader::with_capacity(7, text.as_bytes()));
        assert_eq!(lines.next().unwrap(), Some(Piece::Line(b"one")));
        assert_eq!(lines.next().unwrap(), Some(Piece::Line(b"")));
        assert_eq!(lines.next().unwrap(), Some(Piece::TooLong));
        assert_eq!(lines.next().unwrap(), Some(Piece::Line(b"two")));
        assert_eq!(lines.next().unwrap(), Some(Piece::CutOff(b"thr")));
        assert_eq!(lines.next().unwrap(), None);
    }
}
