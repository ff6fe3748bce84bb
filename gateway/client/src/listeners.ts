/**
 * Who wants to hear of what. A listener that throws doesn't keep others from hearing: its error is thrown where
 * nobody waits, for the console or the process to see.
 * @internal
 */
export class Listeners<Events extends object> {
  readonly #of = new Map<keyof Events, Set<(value: never) => void>>();

  on<E extends keyof Events>(event: E, listener: (value: Events[E]) => void): () => void {
    let all = this.#of.get(event);
    if (!all) this.#of.set(event, (all = new Set()));
    const own = (value: Events[E]) => listener(value); // the same function may be registered twice
    all.add(own);
    return () => void all.delete(own);
  }

  heard(event: keyof Events): boolean {
    return (this.#of.get(event)?.size ?? 0) > 0;
  }

  emit<E extends keyof Events>(event: E, value: Events[E]): void {
    for (const listener of [...(this.#of.get(event) ?? [])]) {
      try {
        (listener as (value: Events[E]) => void)(value);
      } catch (error) {
        queueMicrotask(() => {
          throw error;
        });
      }
    }
  }
}
