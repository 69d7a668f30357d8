// Each line that ends in an error's number is a mistake that the compiler finds. The others compile.
import createClient from "openapi-fetch";
import type { components, paths } from "./openapi";

const client = createClient<paths>({ baseUrl: "http://127.0.0.1:8000" });
const path = { user_id: "", item_id: "" };

await client.GET("/v1/things"); // TS2554
await client.POST("/v1/items", {}); // TS2345
await client.POST("/v1/items", { body: {} }); // TS2322
await client.PATCH("/v1/items/{item_id}", { params: { path }, body: { name: null } }); // TS2322
await client.GET("/v1/items", { params: { query: { limit: "all" } } }); // TS2322
await client.GET("/v1/items/{item_id}"); // TS2554
await client.POST("/v1/auth/token", { body: { grant_type: "code" } }); // TS2322
await client.POST("/v1/auth/revoke", { body: {} }); // TS2322

const item: components["schemas"]["ItemCreate"] = { name: "a", color: "red" }; // TS2353
const changes: components["schemas"]["AccountUpdate"] = { role: "root" }; // TS2322
const user = await client.PATCH("/v1/auth/users/{user_id}", { params: { path }, body: changes });
user.data.role; // TS18048
user.error?.errors[0]; // TS18048
user.error?.error; // TS2551
user.data?.password; // TS2339
