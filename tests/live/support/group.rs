//! What an operator's tools ask of a consumer group, and do to a member of it, in Kafka's own protocol.
//!
//! It knows two requests; everything else about groups is the client library's.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;

/// `LeaveGroup`, version 3, and `DescribeGroups`, version 4: the last without flexible fields.
const LEAVE_GROUP: [u8; 4] = [0, 13, 0, 3];
const DESCRIBE_GROUPS: [u8; 4] = [0, 15, 0, 4];

fn string(text: &str) -> Vec<u8> {
    [&i16::try_from(text.len()).expect("a short name").to_be_bytes()[..], text.as_bytes()].concat()
}

/// The answer to a request, from its correlation id on.
fn ask(broker: &str, kind: [u8; 4], body: &[u8]) -> std::io::Result<Vec<u8>> {
    let correlation = 1_i32.to_be_bytes();
    let request = [&kind[..], &correlation, &string("custody-tests"), body].concat();
    let size = i32::try_from(request.len()).expect("a short request").to_be_bytes();
    let mut stream = TcpStream::connect(broker)?;
    stream.write_all(&[&size[..], &request].concat())?;
    let mut size = [0; 4];
    stream.read_exact(&mut size)?;
    let mut answer = vec![0; i32::from_be_bytes(size).try_into().expect("a size")];
    stream.read_exact(&mut answer)?;
    Ok(answer)
}

/// Has the group give up a static member, as the end of its session does; whether `broker` coordinates the group
/// and the member was one.
pub(crate) fn give_up(broker: &str, group: &str, member: &str) -> bool {
    let body = [string(group), 1_i32.to_be_bytes().to_vec(), string(""), string(member)].concat();
    // Correlation, throttle time, the group's error, members that end in an error of their own.
    ask(broker, LEAVE_GROUP, &body).is_ok_and(|answer| answer[8..10] == [0, 0] && answer.ends_with(&[0, 0]))
}

/// How many members a group has, once it has told each of them what is its own; `None` while it rebalances.
pub(crate) fn members(broker: &str, group: &str) -> Option<usize> {
    // One group, without what its caller may do to it.
    let body = [1_i32.to_be_bytes().to_vec(), string(group), vec![0]].concat();
    let answer = ask(broker, DESCRIBE_GROUPS, &body).ok()?;
    // Correlation, throttle time, groups, the group's error; id, state, type and name of its protocol; members.
    let mut rest = answer.get(14..)?;
    let mut texts = [""; 4];
    for text in &mut texts {
        let (length, tail) = rest.split_first_chunk::<2>()?;
        let (head, tail) = tail.split_at_checked(u16::from_be_bytes(*length).into())?;
        (*text, rest) = (std::str::from_utf8(head).ok()?, tail);
    }
    let members = u32::from_be_bytes(*rest.first_chunk::<4>()?);
    (texts[1] == "Stable").then_some(members as usize)
}
