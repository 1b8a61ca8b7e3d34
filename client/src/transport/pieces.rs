//! How a batch of frames is cut into calls: which of them leave together as one large datagram. Pure.

use jvpn_abi::Ecn;
use std::ops::Range;

/// Most datagrams in a large one (`UDP_MAX_SEGMENTS` of kernels before 6.9 is 64).
const SEGMENTS_MAX: usize = 64;
/// Most octets in a large one: what fits behind the headers of IPv4 and UDP.
const OCTETS_MAX: usize = 65_535 - 20 - 8;

/// Frames that leave by one call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Piece {
    /// One datagram each.
    Single(Range<usize>),
    /// As one: all of the first one's length, the last at most.
    Large(Range<usize>),
}

/// The first piece of the frames in `range` whose lengths and congestion marks `length` and `mark` tell; empty frames are
/// passed over. `None`: none is left. All frames of a piece have one mark: the headers of one call are the same.
pub(super) fn next_piece(
    length: impl Fn(usize) -> usize,
    mark: impl Fn(usize) -> Ecn,
    range: Range<usize>,
    large: bool,
) -> Option<Piece> {
    let start = range.clone().find(|index| length(*index) > 0)?;
    let run = |from: usize| {
        let size = length(from);
        let mut octets = size;
        let mut end = from + 1;
        while large && end < range.end && end - from < SEGMENTS_MAX {
            let next = length(end);
            if next == 0 || next > size || octets + next > OCTETS_MAX || mark(end) != mark(from) {
                break;
            }
            octets += next;
            end += 1;
            if next < size {
                break;
            }
        }
        end
    };
    let end = run(start);
    if end > start + 1 {
        return Some(Piece::Large(start..end));
    }
    // As far as nothing goes together.
    let mut end = end;
    while end < range.end && length(end) > 0 && mark(end) == mark(start) && run(end) == end + 1 {
        end += 1;
    }
    Some(Piece::Single(start..end))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn pieces(lengths: &[usize], large: bool) -> Vec<Piece> {
        marked(lengths, |_| Ecn::NOT_ECT, large)
    }

    fn marked(lengths: &[usize], mark: impl Fn(usize) -> Ecn, large: bool) -> Vec<Piece> {
        let mut rest = 0..lengths.len();
        let mut all = Vec::new();
        while let Some(piece) = next_piece(|index| lengths[index], &mark, rest.clone(), large) {
            let (Piece::Single(range) | Piece::Large(range)) = &piece;
            assert!(range.end > rest.start, "it goes on");
            rest.start = range.end;
            all.push(piece);
        }
        all
    }

    #[test]
    fn what_goes_together() {
        use Piece::{Large, Single};
        assert_eq!(pieces(&[9, 9, 9, 4, 9, 9], true), [Large(0..4), Large(4..6)]);
        assert_eq!(pieces(&[4, 9, 9, 0, 5], true), [Single(0..1), Large(1..3), Single(4..5)]);
        assert_eq!(pieces(&[1, 2, 3, 4], true), [Single(0..4)]);
        assert_eq!(pieces(&[9, 9, 0, 9], false), [Single(0..2), Single(3..4)]);
        assert_eq!(pieces(&[0, 0], true), []);
        assert_eq!(pieces(&[1_400; 100], true), [Large(0..46), Large(46..92), Large(92..100)]);
        assert_eq!(pieces(&[60; 100], true), [Large(0..64), Large(64..100)]);
    }

    /// R9.1: what leaves by one call has one congestion mark.
    #[test]
    fn r9_1_marks_are_not_mixed() {
        use Piece::{Large, Single};
        let mark = |index| if index == 2 || index == 3 { Ecn::CE } else { Ecn::NOT_ECT };
        assert_eq!(marked(&[9; 6], mark, true), [Large(0..2), Large(2..4), Large(4..6)]);
        assert_eq!(marked(&[9; 6], mark, false), [Single(0..2), Single(2..4), Single(4..6)]);
        assert_eq!(marked(&[4, 9, 9, 4, 9], mark, true), [Single(0..2), Large(2..4), Single(4..5)]);
    }

    proptest! {
        /// Every frame leaves once and in order; a large one is as the kernel wants it.
        #[test]
        fn every_frame_leaves_once(
            lengths in proptest::collection::vec(0usize..5, 0..128), large: bool, marks: u128
        ) {
            let mark = |index: usize| Ecn::from_bits((marks >> index & 1) as u8);
            let lengths: Vec<usize> = lengths.iter().map(|length| length * 450).collect();
            let mut left = Vec::new();
            for piece in marked(&lengths, mark, large) {
                if let Piece::Large(range) = &piece {
                    let (last, rest) = lengths[range.clone()].split_last().unwrap();
                    prop_assert!(large && !rest.is_empty() && range.len() <= SEGMENTS_MAX);
                    prop_assert!(rest.iter().all(|length| *length == rest[0]) && *last <= rest[0] && *last > 0);
                    prop_assert!(lengths[range.clone()].iter().sum::<usize>() <= OCTETS_MAX);
                }
                let (Piece::Single(range) | Piece::Large(range)) = piece;
                prop_assert!(range.clone().all(|index| mark(index) == mark(range.start)));
                left.extend(range);
            }
            let all: Vec<usize> = (0..lengths.len()).filter(|index| lengths[*index] > 0).collect();
            prop_assert_eq!(left, all);
        }
    }
}
