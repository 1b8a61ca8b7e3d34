//! What the documents say about the takeover exchange.

use jvpn_abi::Reason;
use jvpn_abi::wire::takeover;
use jvpn_session::messages::{SessionId, SwitchCause, TakeoverAsk};

use super::{PROTOCOL, owned, pairs, table};

/// R10.1: sizes and positions of the exchange.
#[test]
fn the_takeover_exchange_is_the_codes() {
    let sizes = [
        ("TAKEOVER_LEN", takeover::TAKEOVER_LEN),
        ("TAKEOVER_PAYLOAD_LEN", takeover::TAKEOVER_PAYLOAD_LEN),
        ("TAKEOVER_ACK_PAYLOAD_MAX", takeover::TAKEOVER_ACK_PAYLOAD_MAX),
        ("TAKEOVER_REJECT_LEN", takeover::TAKEOVER_REJECT_LEN),
    ];
    assert_eq!(pairs(PROTOCOL, "### Sizes of the takeover exchange"), owned(sizes));
    let fields = [
        ("client index", takeover::INDEX_AT),
        ("MAC", takeover::MAC_AT),
        ("cookie", takeover::COOKIE_AT),
        ("Noise message 1", takeover::NOISE_AT),
    ];
    let rows = table(PROTOCOL, "### REATTACH_REQUEST, takeover");
    let mut next = 0;
    for row in &rows {
        let (first, last) = row[0].split_once('–').unwrap_or((&row[0], &row[0]));
        assert_eq!(first.parse::<usize>().unwrap(), next, "a gap before {}", row[1]);
        next = last.parse::<usize>().unwrap() + 1;
        if let Some((_, at)) = fields.iter().find(|(field, _)| *field == row[1]) {
            assert_eq!(first.parse::<usize>().unwrap(), *at, "{}", row[1]);
        }
    }
    assert_eq!(next, takeover::TAKEOVER_LEN);
    assert!(fields.iter().all(|(field, _)| rows.iter().any(|row| row[1] == *field)));
    let cause = SwitchCause::Retry;
    let ask =
        TakeoverAsk { session_id: SessionId([1; 16]), timestamp_ns: 2, cause, detect_ms: 3, attempt: 4 };
    assert_eq!(ask.encode().len(), 31);
    assert_eq!(takeover::REFUSAL_LEN, 1 + size_of::<u32>());
    assert_eq!(Reason::SessionNotFound.number(), 68);
}
