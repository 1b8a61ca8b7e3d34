//! Clocks that step back: the engine is handed an earlier moment than before, a client's wall clock an earlier day.

use crate::client::Client;
use crate::rig::{PATH_A, PATH_B, Rig};
use jvpn_abi::BootTime;
use jvpn_session::Policy;
use std::time::Duration;

/// R1.8: whatever arrives at a moment before the last one is handled as ever: nothing ends, no timer fires early or never, no
/// bound grows, and the session switches on.
#[test]
fn r1_8_an_engine_whose_clock_steps_back_goes_on() {
    for back in [1, 400, 60_000, 4_999_999] {
        let mut rig = Rig::new(Policy::default());
        let mut client = rig.attached(0);
        client.switch(&mut rig, PATH_B());
        rig.wait(Duration::from_secs(10));
        rig.frame(client.slot(), PATH_B());
        let (before, state) = (rig.now, rig.state(&client));
        rig.now = BootTime(before.0 - back * 1_000_000);
        rig.engine.handle_timeout(rig.now, &rig.tables.contexts);
        rig.pump();
        let sample = client.sample(client.newest(), 3);
        rig.datagram(PATH_A(), &sample);
        assert_eq!(rig.state(&client), state, "{back} ms back");
        // A switch while it is wrong, and one when it is right again.
        client.switch(&mut rig, PATH_A());
        assert_eq!(rig.state(&client).0, "ATTACHED", "{back} ms back");
        rig.now = before.after(Duration::from_secs(5));
        rig.frame(client.slot(), PATH_A());
        client.switch(&mut rig, PATH_B());
        assert_eq!(rig.state(&client).0, "ATTACHED");
        // Silence still ends it in its time.
        rig.wait(Duration::from_secs(2_000));
        assert_eq!(rig.engine.live_sessions(), 0);
        rig.check_audit();
    }
}

/// R2.2, R2.4: a client whose wall clock was set back is refused in silence like any replay, is counted, and comes in when its
/// clock is past its last handshake; its live session does not notice.
#[test]
fn r2_2_a_wall_clock_that_steps_back_is_not_believed() {
    let mut rig = Rig::new(Policy::default());
    let mut client = rig.attached(0);
    let session = client.session();
    let mut restarted = Client::new(0, rig.gateway);
    restarted.timestamp_ns = client.timestamp_ns - 500;
    let (init, _) = restarted.init(&mut rig);
    rig.ask_in_vain(PATH_B(), &init);
    client.switch(&mut rig, PATH_B());
    assert_eq!((rig.state(&client).0, client.session()), ("ATTACHED", session));
    rig.wait(Duration::from_secs(1));
    rig.frame(client.slot(), PATH_B());
    restarted.timestamp_ns = client.timestamp_ns;
    restarted.handshake(&mut rig, PATH_A());
    rig.frame(restarted.slot(), PATH_A());
    assert_eq!(rig.state(&restarted).0, "ATTACHED");
    rig.check_audit();
}
