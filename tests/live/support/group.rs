//! What an operator's tools do to a member of a consumer group, in Kafka's own protocol.
//!
//! It knows one request; everything else about groups is the client library's.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;

/// `LeaveGroup`, version 3: the last without flexible fields.
const LEAVE_GROUP: [u8; 4] = [0, 13, 0, 3];

fn string(text: &str) -> Vec<u8> {
    [&i16::try_from(text.len()).expect("a short name").to_be_bytes()[..], text.as_bytes()].concat()
}

/// Has the group give up a static member, as the end of its session does; whether `broker` coordinates the group
/// and the member was one.
pub(crate) fn give_up(broker: &str, group: &str, member: &str) -> bool {
    let one = 1_i32.to_be_bytes();
    let body = [string(group), one.to_vec(), string(""), string(member)].concat();
    let request = [LEAVE_GROUP.to_vec(), one.to_vec(), string("custody-tests"), body].concat();
    let size = i32::try_from(request.len()).expect("a short request").to_be_bytes();
    let answer = TcpStream::connect(broker).and_then(|mut stream| {
        stream.write_all(&[&size[..], &request].concat())?;
        let mut size = [0; 4];
        stream.read_exact(&mut size)?;
        let mut answer = vec![0; i32::from_be_bytes(size).try_into().expect("a size")];
        stream.read_exact(&mut answer)?;
        Ok(answer)
    });
    // Correlation, throttle time, the group's error, members that end in an error of their own.
    answer.is_ok_and(|answer| answer[8..10] == [0, 0] && answer.ends_with(&[0, 0]))
}
