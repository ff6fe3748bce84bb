// The BullMQ side of the queue benchmark. It reads one request per line from
// stdin and answers each with one line on stdout:
//
//   {op:"pickup", n, gaps}               -> {ms: [...]}        add() begins -> processor entered, one at a time
//   {op:"noop", n, concurrency}          -> {seconds}          n prefilled jobs, worker start -> last one completed
//   {op:"add", n, parallel}              -> {seconds}          n calls of add()
'use strict';
const readline = require('node:readline');
const { performance } = require('node:perf_hooks');
const { setTimeout: sleep } = require('node:timers/promises');
const { Queue, Worker } = require('bullmq');

const connection = { host: process.argv[2], port: Number(process.argv[3]), db: 1, maxRetriesPerRequest: null };
const options = { removeOnComplete: true, removeOnFail: true };

const ops = {
  async pickup({ n, gaps }) {
    const queue = new Queue('pickup', { connection });
    let entered;
    const worker = new Worker('pickup', async () => { entered(performance.now()); }, { connection });
    await worker.waitUntilReady();
    const ms = [];
    const once = async () => {
      const at = new Promise((resolve) => { entered = resolve; });
      const begin = performance.now();
      await queue.add('j', { job: 'bench', attempt: 1 }, options);
      return (await at) - begin;
    };
    for (let i = 0; i < 20; i++) await once();
    for (let i = 0; i < n; i++) {
      await sleep(gaps[i % gaps.length]);
      ms.push(await once());
    }
    await worker.close();
    await queue.close();
    return { ms };
  },

  async noop({ n, concurrency }) {
    const queue = new Queue('noop', { connection });
    for (let i = 0; i < n; i += 1000) {
      const batch = [];
      for (let k = i; k < Math.min(n, i + 1000); k++) batch.push({ name: 'j', data: { job: 'bench' + k, attempt: 1 }, opts: options });
      await queue.addBulk(batch);
    }
    let done = 0;
    let finish;
    const all = new Promise((resolve) => { finish = resolve; });
    const worker = new Worker('noop', async () => {}, { connection, concurrency, autorun: false });
    worker.on('completed', () => { if (++done === n) finish(); });
    await worker.waitUntilReady();
    const begin = performance.now();
    worker.run();
    await all;
    const seconds = (performance.now() - begin) / 1000;
    await worker.close();
    await queue.obliterate({ force: true });
    await queue.close();
    return { seconds };
  },

  async add({ n, parallel }) {
    const queue = new Queue('add', { connection });
    await queue.waitUntilReady();
    let next = 0;
    const begin = performance.now();
    await Promise.all(Array.from({ length: parallel }, async () => {
      while (next < n) await queue.add('j', { job: 'bench' + next++, attempt: 1 }, options);
    }));
    const seconds = (performance.now() - begin) / 1000;
    await queue.obliterate({ force: true });
    await queue.close();
    return { seconds };
  },
};

(async () => {
  for await (const line of readline.createInterface({ input: process.stdin })) {
    let answer;
    try {
      const request = JSON.parse(line);
      answer = await ops[request.op](request);
    } catch (error) {
      answer = { error: String(error && error.stack || error) };
    }
    process.stdout.write(JSON.stringify(answer) + '\n');
  }
  process.exit(0);
})();
