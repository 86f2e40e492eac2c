// bullmq for node, run by bullmq_node.py with the same command lines as all adapters.
import { closeSync, openSync, readFileSync, writeSync } from "node:fs";
import { createRequire } from "node:module";
import { setTimeout as wait } from "node:timers/promises";

const require = createRequire(new URL("../.environments/bullmq_node/package.json", import.meta.url));
const { Queue, Worker } = require("bullmq");
const Redis = require("ioredis");

const QUEUE = "bench";
const WARM_UP = 100, LANES = 100, BULK = 1000, SIZE = 200;
const NAP = 50; // milliseconds
const REMOVE = { removeOnComplete: true };
const ENVELOPE = '{"type":"noop","sent":0.0,"body":""}'.length;

const payload = (sent) => ({ type: "noop", sent, body: "x".repeat(SIZE - ENVELOPE) });
const connect = () => new Redis(process.env.BENCH_REDIS_URL, { maxRetriesPerRequest: null });
const version = (name) => JSON.parse(readFileSync(require.resolve(`${name}/package.json`))).version;

async function send(queue, mode, count) {
  const message = payload(0), job = { name: "consume", data: message, opts: REMOVE };
  if (mode === "many") {
    for (let sent = 0; sent < count; sent += BULK) {
      await queue.addBulk(Array(Math.min(BULK, count - sent)).fill(job));
    }
    return;
  }
  let left = count;
  const lane = async () => {
    while (left-- > 0) await queue.add("consume", message, REMOVE);
  };
  await Promise.all(Array.from({ length: mode === "concurrent" ? LANES : 1 }, lane));
}

async function publish(mode, count) {
  const connection = connect(), queue = new Queue(QUEUE, { connection });
  await send(queue, mode, WARM_UP);
  const started = process.hrtime.bigint(), cpu = process.cpuUsage();
  await send(queue, mode, count);
  const seconds = Number(process.hrtime.bigint() - started) / 1e9, { user, system } = process.cpuUsage(cpu);
  console.log(JSON.stringify({ count, seconds, cpu_seconds: (user + system) / 1e6, queued: count + WARM_UP }));
  await queue.close();
  connection.disconnect();
}

async function trickle(count, rate) {
  const connection = connect(), queue = new Queue(QUEUE, { connection }), started = performance.now();
  for (let number = 0; number < count; number++) {
    await wait(Math.max(started + (number * 1000) / rate - performance.now(), 0));
    await queue.add("consume", payload(now()), REMOVE);
  }
  await queue.close();
  connection.disconnect();
}

const now = () => (performance.timeOrigin + performance.now()) / 1000; // Date.now() has milliseconds alone

// node cannot map a file, so the count is written once a turn of the event loop.
function counter() {
  const file = openSync(process.env.BENCH_COUNTER, "r+"), cell = new BigUint64Array(1);
  let due = false;
  return () => {
    cell[0] += 1n;
    if (due) return;
    due = true;
    setImmediate(() => {
      due = false;
      writeSync(file, cell, 0, 8, 0);
    });
  };
}

async function work(kind, concurrency) {
  const count = counter(), stamps = openSync(process.env.BENCH_STAMPS, "a");
  const handlers = {
    noop: async () => count(),
    sleep: async () => {
      await wait(NAP);
      count();
    },
    stamp: async (job) => {
      writeSync(stamps, new Float64Array([now() - job.data.sent]));
      count();
    },
  };
  const worker = new Worker(QUEUE, handlers[kind], { connection: connect(), concurrency });
  process.once("SIGTERM", async () => {
    await worker.close();
    closeSync(stamps);
    process.exit(0);
  });
}

const [command, ...rest] = process.argv.slice(2);
if (command === "versions") {
  console.log(JSON.stringify({ node: process.versions.node, bullmq: version("bullmq"), ioredis: version("ioredis") }));
} else if (command === "publish") {
  await publish(rest[0], Number(rest[1]));
} else if (command === "trickle") {
  await trickle(Number(rest[0]), Number(rest[1]));
} else {
  await work(rest[0], Number(rest[1]));
}
