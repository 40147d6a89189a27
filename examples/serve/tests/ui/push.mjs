// A sender of remote write 1.0, small enough to read: protobuf by hand, snappy as literals alone.

function varint(value) {
  const out = [];
  let rest = BigInt.asUintN(64, BigInt(value));
  while (rest >= 128n) {
    out.push(Number(rest & 127n) | 128);
    rest >>= 7n;
  }
  return Buffer.from([...out, Number(rest)]);
}

const bytes = (field, value) => Buffer.concat([varint((field << 3) | 2), varint(value.length), value]);

function sample([t, value]) {
  const number = Buffer.alloc(9);
  number[0] = (1 << 3) | 1;
  number.writeDoubleLE(value, 1);
  return bytes(2, Buffer.concat([number, varint(2 << 3), varint(t)]));
}

function series({ labels, samples }) {
  const pairs = Object.entries(labels)
    .sort(([a], [b]) => Buffer.compare(Buffer.from(a), Buffer.from(b)))
    .map(([name, value]) => bytes(1, Buffer.concat([bytes(1, Buffer.from(name)), bytes(2, Buffer.from(value))])));
  return bytes(1, Buffer.concat([...pairs, ...samples.map(sample)]));
}

function snappy(message) {
  const out = [varint(message.length)];
  for (let at = 0; at < message.length; at += 65536) {
    const piece = message.subarray(at, at + 65536);
    const head = Buffer.alloc(3);
    head[0] = 61 << 2;
    head.writeUInt16LE(piece.length - 1, 1);
    out.push(head, piece);
  }
  return Buffer.concat(out);
}

/** Sends a request's body, compressed already, and throws unless it is taken. */
export async function send(base, body) {
  const headers = { "content-type": "application/x-protobuf", "content-encoding": "snappy", "x-prometheus-remote-write-version": "0.1.0" };
  const answer = await fetch(`${base}/api/v1/write`, { method: "POST", headers, body });
  if (answer.status !== 204) throw new Error(`remote write: ${answer.status} ${await answer.text()}`);
}

/** Sends `[{labels, samples: [[ms, value], …]}, …]`. */
export const push = (base, list) => send(base, snappy(Buffer.concat(list.map(series))));
